"""The embedded models: what is shipped, and that the recipe remakes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from l2pd_bench import mini as recipes
from l2pd_bench.hosts.mini import COMPANION, TOKENIZER, WEIGHTS, MiniHost, MiniTokenizer, read_model
from l2pd_bench.mini import train
from l2pd_bench.mini_data import BLOCK, STEPS, Batches, Recipe, build_tokenizer, mask_rows
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import dump_items
from l2pd_bench.tasks.mini import TEST_SIZE, in_test_pool

HOSTS = Path(str(files("l2pd_bench.hosts")))
TASKS = recipes.generators()


class TestShipped:
    def test_size(self) -> None:
        """All weights together are below 16 MB."""
        assert sum(path.stat().st_size for path in HOSTS.glob("*.safetensors")) < 16e6

    @pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
    def test_test_sets(self, task: Any) -> None:
        """The stored test set is what the generator makes: 600 different prompts of the test pool."""
        stored = files("l2pd_bench.tasks").joinpath(f"{task.name}.jsonl").read_text("utf-8")
        items = task.items()

        assert stored == dump_items(task.make_test_set())
        assert len({item.prompt for item in items}) == len(items) == TEST_SIZE
        assert all(in_test_pool(item.prompt) for item in items)

    def test_tokenizer(self) -> None:
        """The shipped tokenizer is the one that the recipe builds; every digit is a token of its own."""
        built = build_tokenizer(TASKS)
        shipped = MiniTokenizer.shipped()

        assert json.loads(built.to_str()) == json.loads(HOSTS.joinpath(TOKENIZER).read_text("utf-8"))
        assert [shipped.decode([i]) for i in shipped.answer("2026")] == list("2026")

    @pytest.mark.parametrize(("name", "model"), [(WEIGHTS, "diffusion"), (COMPANION, "causal")])
    def test_weights_tell_their_recipe(self, name: str, model: str) -> None:
        """The weights' metadata holds the recipe as it stands in the code, and its network's shape."""
        recipe = Recipe(model, STEPS[model])
        with safe_open(HOSTS / name, "pt") as stored:
            metadata = stored.metadata()

        assert json.loads(metadata["recipe"]) == json.loads(json.dumps(asdict(recipe)))
        assert read_model(HOSTS / name, device=torch.device("cpu"), dtype=torch.float32).config == recipe.config(
            MiniTokenizer.shipped().vocab_size
        )

    def test_companion_is_causal(self, mini: MiniHost) -> None:
        """The companion's logits do not depend on later tokens, and it predicts the next one."""
        companion = read_model(HOSTS / COMPANION, device=torch.device("cpu"), dtype=torch.float32)
        item = load_task("mini-code").items()[0]
        prompt = mini.encode(item.prompt)
        ids = torch.tensor([prompt + mini.tokenizer.answer(item.reference)])
        other = ids.clone()
        other[0, -3:] = 7
        with torch.inference_mode():
            a, b = companion(ids), companion(other)

        torch.testing.assert_close(a[:, :-3], b[:, :-3])
        assert not torch.equal(a[:, -3:], b[:, -3:])
        loss = torch.nn.functional.cross_entropy(a[0, len(prompt) - 1 : -1], ids[0, len(prompt) :])
        assert loss < 1  # nats; a guess among the vocabulary would cost 5.6


class TestRecipe:
    def test_batches_are_functions_of_the_step(self) -> None:
        """A batch depends on recipe and step alone; rows hold prompt, answer, then EoT to the end."""
        tokenizer = MiniTokenizer.shipped()
        recipe = Recipe("diffusion", 100)
        one, two = Batches(recipe, TASKS, tokenizer), Batches(recipe, TASKS, tokenizer)
        two.at(3)
        for step in (17, 4):
            for a, b in zip(one.at(step), two.at(step), strict=True):
                assert torch.equal(a, b)
        ids, prompts, answers = one.at(5)
        for row, prompt, answer in zip(ids.tolist(), prompts.tolist(), answers.tolist(), strict=True):
            assert row[prompt - 1] == tokenizer.assistant
            assert tokenizer.eot not in row[: prompt + answer] and set(row[prompt + answer :]) == {tokenizer.eot}

    @pytest.mark.parametrize("suffixes", [False, True])
    def test_masks(self, suffixes: bool) -> None:
        """No prompt token is masked, every row has a mask, and ratios spread from 0.1 to 1."""
        prompts, answers = torch.full((300,), 10), torch.full((300,), 40)
        masked = mask_rows(prompts, answers, 10 + 3 * BLOCK, torch.Generator().manual_seed(0), suffixes=suffixes)

        assert not masked[:, :10].any() and masked.any(1).all()
        share = masked[:, 10:].float().mean(1)
        assert share.min() < 0.25 and share.max() > 0.95

    def test_resume(self, tmp_path: Path) -> None:
        """A training stopped at a checkpoint and resumed ends with the weights of an undisturbed one."""
        tokenizer, recipe = MiniTokenizer.shipped(), Recipe("causal", 4, rows=6, warmup=2, suffix_from=2)
        whole = train(recipe, TASKS, tokenizer, tmp_path / "whole", log_every=1, save_every=2, report=lambda line: None)

        def stop(line: str) -> None:
            if '"step": 3' in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(recipe, TASKS, tokenizer, tmp_path / "parts", log_every=1, save_every=2, report=stop)
        said: list[str] = []
        parts = train(recipe, TASKS, tokenizer, tmp_path / "parts", log_every=1, save_every=2, report=said.append)

        assert said[0] == "resumed at step 2"
        for name, weight in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0)

    def test_it_learns(self, tmp_path: Path) -> None:
        """A few steps of the recipe bring the loss well down."""
        recipe = Recipe("diffusion", 16, rows=4, warmup=3)
        train(recipe, TASKS[:], MiniTokenizer.shipped(), tmp_path, log_every=8, report=lambda line: None)
        log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]

        assert [line["step"] for line in log] == [8, 16]
        assert log[1]["loss"] < log[0]["loss"] - 0.3
