"""Tasks of lm-eval: how they are found by their names, and what is refused."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import lm_eval_reference
import numpy as np
import pytest
import task_items

from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Program
from l2pd_bench.tasks.lm_eval_find import find_task, known_tasks
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


class TestFinding:
    """Names."""

    def test_every_name_that_lm_eval_knows(self) -> None:
        """Names in files of other names are found, and the first file of two is taken, as lm-eval does."""
        assert len(known_tasks()) > 10_000
        for name, file in (("gsm8k", "gsm8k/gsm8k.yaml"), ("gsm8k_cot", "gsm8k/gsm8k-cot.yaml")):
            path = find_task(name)
            assert path is not None and path.as_posix().endswith(f"lm_eval/tasks/{file}")
        assert find_task("darijammlu_arabic_language_(general)") is not None

    @pytest.mark.parametrize(
        ("name", "near"),
        [("gsm8kk", "gsm8k, "), ("mmlu", "mmlu_abstract_algebra, "), ("minerva_math", "minerva_math_algebra, ")],
    )
    def test_unknown_names(self, name: str, near: str) -> None:
        """A name that is none, or a group's, is a usage error with some near ones."""
        with pytest.raises(UsageError) as caught:
            load_task(f"lm-eval:{name}")
        assert f"lm-eval: got '{name}', expected the name of one of its 1" in str(caught.value)
        assert f"did you mean {near}" in str(caught.value)

    def test_no_name(self) -> None:
        """Without a name, or with one of nothing, the error says what is missing."""
        with pytest.raises(UsageError, match="got no 'task'"):
            load_task("lm-eval")
        with pytest.raises(UsageError, match=r"lm-eval: got '\*', expected the name of one"):
            load_task("lm-eval:*")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("hellaswag", "got output_type multiple_choice, expected generate_until, whose answers are texts"),
            ("squadv2", "got a task with code of its own, expected generate_until"),
            ("gsm8k_cot_self_consistency", "got 64 answers to an item, expected a task with one"),
            ("mmmu_val_accounting", "got pictures or sounds, expected texts only"),
        ],
    )
    def test_tasks_that_will_not_do(self, name: str, message: str, folder: Path) -> None:
        """Tasks without text answers, with pictures, or with several answers to an item are refused."""
        with pytest.raises(UsageError) as caught:
            load(name, folder).items()
        assert f"lm-eval:{name}: {message}" in str(caught.value)

    def test_programs_that_a_task_runs_itself(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task marked as unsafe whose metric is not code_eval would run programs here: it is refused."""
        real = lm_eval_reference.config("gsm8k/gsm8k")
        monkeypatch.setattr("lm_eval.tasks._yaml_loader.load_yaml", lambda *_, **__: {**real, "unsafe_code": True})
        with pytest.raises(UsageError, match="lm-eval:gsm8k: runs programs by itself"):
            load("gsm8k", folder).items()


class TestLoading:
    """Items, and what loading leaves behind."""

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("gsm8k_cot", "gsm8k_cot_test.jsonl"),
            ("nq_open", "nq_open_validation.jsonl"),
            ("drop", "drop_validation.jsonl"),
        ],
    )
    def test_a_missing_file(self, name: str, file: str, folder: Path) -> None:
        """A folder without the task's items is named, with the file that it should hold."""
        with pytest.raises(UsageError, match=f"--data-dir: got '.*', which has no {re.escape(file)}"):
            load(name, folder).items()

    def test_the_file_of_the_examples(self, folder: Path) -> None:
        """A split that examples are drawn from is needed, too."""
        (folder / "gsm8k_train.jsonl").unlink()
        with pytest.raises(UsageError, match=r"has no gsm8k_train\.jsonl"):
            load("gsm8k", folder).items()
        assert len(load("gsm8k_cot_zeroshot", folder).items()) == 12

    def test_a_hub_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a network and a folder, the error says what to put where."""
        import datasets

        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(
            UsageError, match=r"cannot be loaded \(ConnectionError: no route\); .* gsm8k_SPLIT.jsonl .*--data-dir"
        ):
            load_task("lm-eval:gsm8k").items()

    def test_unknown_filters_and_metrics(self, folder: Path) -> None:
        """Names that the task does not have are usage errors that list those that it has."""
        with pytest.raises(UsageError, match="lm-eval:gsm8k: filter: got 'strict', expected one of flexible-extract, "):
            load("gsm8k:filter=strict", folder).items()
        with pytest.raises(UsageError, match="lm-eval:gsm8k: metric: got 'bleu', expected one of exact_match"):
            load("gsm8k:metric=bleu", folder).items()

    def test_nothing_is_left_behind(self, folder: Path) -> None:
        """Random numbers, the hub's metrics, lm-eval's functions and its templates are as they were before."""
        import evaluate
        from lm_eval.utils import env

        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        metric, states = evaluate.load, (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        load("humaneval", folder).items()
        assert evaluate.load is metric
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
        assert "lm_eval.tasks.humaneval.utils" not in sys.modules
        assert "from_string" not in vars(env)

    def test_functions_that_others_have_loaded(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """lm-eval's functions with another metric in them, loaded before, are not taken."""
        lm_eval_reference.forbid_code_eval(monkeypatch)
        lm_eval_reference.config("mbpp/mbpp")
        monkeypatch.undo()
        task = load("mbpp", folder)
        assert isinstance(task.grade(task.items()[0], "x = 1"), Program)
