"""Tasks of lm-eval by their names: found, asked and graded as lm-eval itself would."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lm_eval_reference
import pytest
import task_items

from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Program, Verdict
from l2pd_bench.tasks.lm_eval_load import Loaded
from l2pd_bench.tasks.lm_eval_task import LmEval


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Items of some tasks."""
    return task_items.write_lm_eval(tmp_path)


def load(spec: str, folder: Path, *, chat: bool = False) -> LmEval:
    """The task that a user would write as `spec`."""
    task = load_task(f"lm-eval:{spec}", data_dir=folder, chat=chat)
    assert isinstance(task, LmEval)
    return task


class TestParts:
    """What the task says of itself."""

    def test_gsm8k(self, folder: Path) -> None:
        """Names, lengths, stop strings, examples and what grades, with lm-eval's version, come from its file."""
        task = load("gsm8k", folder)
        assert (task.name, task.gen_length, task.few_shot) == ("lm-eval:gsm8k", 256, 5)
        assert task.stop == ("Question:", "</s>", "<|im_end|>")
        assert task.grading.startswith("strict-match, exact_match, lm-eval 0.")
        assert task.grading.endswith(", version 3.0")
        assert (task.prompt_format, load("gsm8k", folder, chat=True).prompt_format) == ("plain", "chat")
        assert not task.needs_sandbox
        assert [item.doc_id for item in task.items()] == [f"lm-eval:gsm8k/{i}" for i in range(12)]

    def test_humaneval(self, folder: Path) -> None:
        """A task of programs needs a sandbox, and keeps the length that it asks for."""
        task = load("humaneval", folder)
        assert (task.gen_length, task.needs_sandbox) == (1024, True)
        assert task.grading.startswith("create_test, tests run, lm-eval 0.")

    def test_hash(self, folder: Path) -> None:
        """The hash of the data is that of the items, which hold all of the documents."""
        before = load("humaneval", folder).data_hash
        assert before == load("humaneval", folder).data_hash
        rows = task_items.humaneval_rows(3)
        rows[1]["test"] += "    assert True\n"
        task_items.write_lines(folder / "humaneval_test.jsonl", rows)
        assert load("humaneval", folder).data_hash != before

    def test_a_filter_of_ones_own(self, folder: Path) -> None:
        """Another of the task's filters can be named."""
        task = load("gsm8k:filter=flexible-extract", folder)
        assert task.grading.startswith("flexible-extract, exact_match")
        assert task.grade(task.items()[0], "It is 3.").answer == "3."


class TestPrompts:
    """Against lm-eval's own requests, and ours."""

    @pytest.mark.parametrize("name", ["gsm8k", "minerva_math500", "humaneval", "mbpp"])
    def test_base(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plain prompts are the contexts that lm-eval would send."""
        files = {"gsm8k": "gsm8k/gsm8k", "minerva_math500": "minerva_math/minerva_math500"}
        ours = [item.prompt for item in load(name, folder).items()]
        lm_eval_reference.forbid_code_eval(monkeypatch)
        splits = {}
        for split in ("test", "train"):
            file = folder / f"{name}_{split}.jsonl"
            splits[split] = (
                [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]] if file.is_file() else []
            )
        theirs = lm_eval_reference.task(files.get(name, f"{name}/{name}"), splits)
        assert ours == lm_eval_reference.contexts(theirs, len(ours))

    @pytest.mark.parametrize(
        ("name", "ours", "file"),
        [
            ("gsm8k", "gsm8k", "gsm8k_test.jsonl"),
            ("minerva_math500", "math500", "math500.jsonl"),
            ("mbpp_instruct", "mbpp", "mbpp.jsonl"),
            ("humaneval_instruct", "humaneval", "HumanEval.jsonl.gz"),
        ],
    )
    def test_chat(self, name: str, ours: str, file: str, tmp_path: Path) -> None:
        """For all real items, prompts and beginnings of answers are those that our own tasks build in a chat."""
        real = Path(task_items.data_dir())
        (tmp_path / "gsm8k_train.jsonl").symlink_to(real / "gsm8k_train.jsonl")
        made = tmp_path / f"{name}_test.jsonl{Path(file).suffix.replace('.jsonl', '')}"
        made.write_bytes((real / file).read_bytes())
        if ours == "mbpp":  # only the test split
            made.write_text("".join((real / file).read_text("utf-8").splitlines(keepends=True)[10:510]), "utf-8")
        theirs = load(name, tmp_path, chat=True).items()
        expected = load_task(ours, data_dir=real, chat=True).items()
        assert [(item.prompt, item.prefix) for item in theirs] == [(item.prompt, item.prefix) for item in expected]

    def test_one_turn(self, folder: Path) -> None:
        """In a chat the description and the examples are part of the one turn of the user."""
        name = "bbh_cot_fewshot_boolean_expressions"
        base, chat = load(name, folder).items()[0], load(name, folder, chat=True).items()[0]
        assert base.prompt == chat.prompt and base.prefix == chat.prefix == ""
        assert chat.prompt.startswith("Evaluate the result of a random Boolean expression.\n\nQ: ")
        assert chat.prompt.endswith("Q: not True is\nA: Let's think step by step.\n")

    def test_a_beginning(self, folder: Path) -> None:
        """What an answer begins with is the prefix in a chat, and the end of the prompt without."""
        base, chat = load("mbpp_instruct", folder).items()[0], load("mbpp_instruct", folder, chat=True).items()[0]
        assert chat.prefix == "\n```python\n" and base.prompt == chat.prompt + chat.prefix


class TestGrades:
    """Verdicts, and programs to run."""

    def test_exact_match(self, folder: Path) -> None:
        """An item's own answer scores 1, a wrong one 0; what the filter read is shown."""
        task = load("gsm8k", folder)
        item = task.items()[0]
        assert task.grade(item, item.reference).score == 1.0
        assert task.grade(item, "#### 1234567") == Verdict("1234567", 0.0)
        assert task.grade(item, "") == Verdict("[invalid]", 0.0)

    def test_several_right_answers(self, folder: Path) -> None:
        """Where a task has several answers to an item, each counts."""
        task = load("triviaqa", folder)
        item = task.items()[2]
        assert item.reference == "Ann 2"
        assert [task.grade(item, text).score for text in ("Ann 2", " bob 2", "Ann 1")] == [1.0, 1.0, 0.0]

    def test_a_metric_of_ones_own(self, folder: Path) -> None:
        """Another of the task's metrics can be named."""
        first, named = load("minerva_math500", folder), load("minerva_math500:metric=math_verify", folder)
        item, text = first.items()[0], "It is $\\boxed{0.5}$."
        assert (first.grade(item, text).score, named.grade(item, text).score) == (0.0, 1.0)

    def test_programs(self, folder: Path) -> None:
        """A program is not run: it is handed to the harness, as lm-eval's filter made it, with lm-eval's tests."""
        for name, text, code in (
            ("humaneval", "    return 1", "{prompt}    return 1"),
            ("humaneval_instruct", "    return 1\n```\nSo.", "{prompt}    return 1\n"),
            ("mbpp", "x = 1", "x = 1"),
            ("mbpp_instruct", "\nx = 1\n```", "x = 1"),
        ):
            task = load(name, folder)
            item = task.items()[0]
            made = task.grade(item, text)
            assert isinstance(made, Program)
            assert made.code == code.replace("{prompt}", item.data.get("prompt", ""))
            assert made.tests == task._loaded.task.doc_to_target(item.data) + "\n"

    def test_in_threads(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Programs that are made at the same time do not mix."""
        task = load("mbpp", folder)
        items = task.items()
        inner, all_made = task._loaded.task, threading.Barrier(len(items))
        process = inner.process_results

        def process_together(*given: object) -> object:
            results = process(*given)
            all_made.wait(timeout=10)
            return results

        monkeypatch.setattr(inner, "process_results", process_together)
        with ThreadPoolExecutor(len(items)) as pool:
            made = list(pool.map(task.grade, items, [f"x = {i}" for i in range(len(items))]))
        assert [one.code for one in made] == ["x = 0", "x = 1", "x = 2"]
        assert [one.tests.partition("(")[0] for one in made] == [f"assert plus_{i}" for i in (11, 12, 13)]

    @pytest.mark.parametrize(
        ("results", "message"),
        [
            ({"exact_match": ("a", "b")}, "metric 'exact_match' gives ('a', 'b') for an item, expected a number"),
            (
                {"exact_match": 37.5, "f1": 0.1},
                "gives 37.5 for an item, expected 0 to 1; choose another .* exact_match, f1",
            ),
            ({"exact_match": -0.1}, "gives -0.1 for an item, expected 0 to 1"),
            ({"f1": 0.1}, "metric: got 'exact_match', expected one of f1"),
        ],
    )
    def test_scores_that_are_none(
        self, results: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A metric of a whole test set, or one out of range, is a usage error before anything is decoded."""
        monkeypatch.setattr(Loaded, "grade", lambda *_: ("a", results, None))
        with pytest.raises(UsageError) as caught:
            load("gsm8k", folder).items()
        words = message.split(" .* ")
        assert all(word in str(caught.value) for word in words)

    def test_a_metric_of_a_whole_test_set(self, folder: Path) -> None:
        """A task of translations, whose metrics need all answers at once, is refused with that."""
        with pytest.raises(UsageError, match=r"metric 'bleu' gives .* it is one of a whole test set"):
            load("wmt16-de-en", folder).items()

    def test_a_metric_of_errors(self, folder: Path) -> None:
        """A metric of which less is better is no score, and is refused."""
        with pytest.raises(UsageError, match="got the metric 'ter', of which less is better"):
            load("wmt16-de-en:metric=ter", folder).items()

    def test_a_metric_that_fails(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A metric that cannot work here is a usage error before anything is decoded."""

        def fail(*_: object) -> None:
            raise TypeError("no metric")

        monkeypatch.setattr(Loaded, "grade", fail)
        with pytest.raises(UsageError, match=r"lm-eval:gsm8k: cannot be graded here \(TypeError: no metric\)"):
            load("gsm8k", folder).items()
