"""Causal language models of Hugging Face as scorers: what they cost, and which of them are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lm import save
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.causal_lm import flops_of
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.scorer import SampleScorer, load_scorer
from l2pd_bench.strategies.base import StepView


@pytest.mark.parametrize("kind", ["Qwen2", "Llama", "GPT2"])
def test_flops_of_a_stranger_equal_torchs_count(kind: str, mini: MiniHost, tmp_path: Path) -> None:
    """The FLOPs of a Hugging Face model are its matrix products as torch counts them, attention's two included."""
    transformers = pytest.importorskip("transformers")
    folder = save(tmp_path, kind, mini.tokenizer.raw, mini.vocab_size + 23)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    session = load_scorer(str(folder), mini).open([0], 27)
    ids = torch.randint(mini.vocab_size, (1, 26))
    with torch.inference_mode():
        session.forward(ids[:, :20], 0, slice(15, 21))
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            session.forward(ids[:, 14:26], 14, slice(21, 27))

    assert counter.get_total_flops() == flops_of(network)(12, 26, 6)


def test_another_tokenizer_is_refused(mini: MiniHost, tmp_path: Path) -> None:
    """The first token with another id is named, with what stands there instead."""
    written = json.loads(mini.tokenizer.raw.to_str())
    vocab = written["model"]["vocab"]
    (a, i), (b, j) = sorted(vocab.items(), key=lambda pair: pair[1])[40:42]
    vocab[a], vocab[b] = j, i
    folder = save(tmp_path, "Qwen2", Tokenizer.from_str(json.dumps(written)), mini.vocab_size)

    with pytest.raises(UsageError, match=rf"has '{b}' as token {i}, expected '{a}' as model 'mini' has"):
        load_scorer(str(folder), mini)


def test_a_shorter_tokenizer_is_refused(mini: MiniHost, analytic: AnalyticHost, tmp_path: Path) -> None:
    """A token that the other tokenizer lacks is named too."""
    folder = save(tmp_path, "Qwen2", mini.tokenizer.raw, mini.vocab_size)

    with pytest.raises(UsageError, match=r"has '<\|mask\|>' as token 0, expected '<mask>' as model 'analytic' has"):
        load_scorer(str(folder), analytic)

    longer = mini.vocabulary() | {"<|more|>": mini.vocab_size}  # type: ignore[operator]
    host = cast(Host, type("Host", (), {"vocabulary": lambda self: longer, "name": "longer"})())
    with pytest.raises(UsageError, match=rf"has nothing as token {mini.vocab_size}, expected '<\|more\|>'"):
        load_scorer(str(folder), host)


def test_fewer_logits_than_tokens_are_refused(mini: MiniHost, tmp_path: Path) -> None:
    """A network that cannot predict every token of its tokenizer is refused."""
    folder = save(tmp_path, "Qwen2", mini.tokenizer.raw, mini.vocab_size - 1)

    with pytest.raises(
        UsageError, match=rf"with {mini.vocab_size - 1} logits, expected at least the {mini.vocab_size}"
    ):
        load_scorer(str(folder), mini)


def test_ids_that_only_the_host_has_are_never_predicted(mini: MiniHost, tmp_path: Path) -> None:
    """Where the host's logits are wider, those of ids without a token are -inf; as a token they do no harm."""
    folder = save(tmp_path, "Qwen2", mini.tokenizer.raw, mini.vocab_size)
    wide = MiniHost("wide", mini.model, mini.tokenizer, "")
    wide.vocab_size = mini.vocab_size + 7
    none, canvas = torch.empty(0), torch.full((1, 20), 7)
    view = StepView(none, none, none, none, canvas, 10, 0, lambda: none)
    scorer = SampleScorer(load_scorer(str(folder), wide), 0, 20, lambda flops: None)
    with torch.inference_mode():
        logits = scorer.score(view, torch.tensor([[8, wide.vocab_size - 1, 9]]))

    assert logits.shape == (1, 3, wide.vocab_size)
    assert bool((logits[..., mini.vocab_size :] == -math.inf).all())
    assert int(logits.isfinite().sum()) == 3 * (mini.vocab_size - 1)


@pytest.mark.parametrize("name", ["./nothing/here", "no-such-owner/no-such-model", "two/many/parts", ""])
def test_a_model_that_is_not_there_is_an_error(name: str, mini: MiniHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or hub id that is not on this machine is refused without asking a network, and the way out is told."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(UsageError, match=rf"scorer: got '{name}', expected a folder, or a hub id .*hf download"):
        load_scorer(name, mini)


def test_a_hub_id_means_its_local_copy(mini: MiniHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was downloaded before is found by its hub id."""
    copy, commit = tmp_path / "models--owner--tiny", "0123456789" * 4
    save(copy / "snapshots" / commit, "Qwen2", mini.tokenizer.raw, mini.vocab_size)
    (copy / "refs").mkdir()
    (copy / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    assert load_scorer("owner/tiny", mini).name == "owner/tiny"


def test_a_folder_without_a_model_is_an_error(mini: MiniHost, tmp_path: Path) -> None:
    """A folder that lacks tokenizer, configuration or weights is refused, and what was missed is told."""
    with pytest.raises(UsageError, match=r"expected a causal language model in '.*config\.json"):
        load_scorer(str(tmp_path), mini)
    folder = save(tmp_path, "Llama", mini.tokenizer.raw, mini.vocab_size)
    (folder / "model.safetensors").unlink()

    with pytest.raises(UsageError, match=r"expected a causal language model in '.*model\.safetensors"):
        load_scorer(str(folder), mini)


def test_missing_weights_are_refused(mini: MiniHost, tmp_path: Path) -> None:
    """A checkpoint without some of its weights is refused, as the rest would be random."""
    folder = save(tmp_path, "Llama", mini.tokenizer.raw, mini.vocab_size)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    with pytest.raises(UsageError, match=r"lack 1 of its weights, such as 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load_scorer(str(folder), mini)


def test_a_network_without_keys_and_values_is_refused(mini: MiniHost, tmp_path: Path) -> None:
    """A recurrent network cannot go back to an earlier token, and is refused."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(vocab_size=mini.vocab_size, hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=mini.tokenizer.raw).save_pretrained(tmp_path)

    with pytest.raises(UsageError, match="a MambaForCausalLM, which cannot go back to an earlier token"):
        load_scorer(str(tmp_path), mini)
