"""MBPP: reference programs pass their tests, others do not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import task_items

from l2pd_bench import sandbox
from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Item, Program
from l2pd_bench.tasks.mbpp import Mbpp, _item

# Reference programs that may fail their own tests, with the reason.
FAILING = {"mbpp/123": "it needs about the 5 s of processor time that a program has; a fast machine is done in less"}


def passed(made: list[Program]) -> list[bool]:
    """Whether each program passes."""
    box = sandbox.choose(unsafe=True)  # they are reference programs, on any machine
    return [outcome.passed for outcome in box.run_all([(one.code, one.tests) for one in made])]


def test_reference_programs() -> None:
    """Every reference program passes, but those listed; all 974 with L2PD_BENCH_FULL=1, else every tenth."""
    folder = task_items.data_dir()
    rows = [json.loads(line) for line in (Path(folder) / "mbpp.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 974
    items = [_item(row, "", "") for row in rows]
    if not task_items.FULL:
        items = [item for i, item in enumerate(items) if i % 10 == 6 or item.data["tests"].startswith("root")]
        assert {item.doc_id for item in items} >= {"mbpp/367", "mbpp/927"}  # those with a set-up
    task = Mbpp(data_dir=folder)
    outcomes = passed([task.grade(item, item.reference) for item in items])
    assert {item.doc_id for item, ok in zip(items, outcomes, strict=True) if not ok} <= set(FAILING)


def test_programs_of_other_items() -> None:
    """Another item's program does not pass: it has another name."""
    task = Mbpp(data_dir=task_items.data_dir())
    items = task.items()
    assert len(items) == 500
    step = 1 if task_items.FULL else 25
    others = [(items[i], items[(i + 251) % len(items)]) for i in range(0, len(items), step)]
    assert sum(passed([task.grade(item, other.reference) for item, other in others])) == 0


@pytest.mark.parametrize(
    ("spec", "text", "code"),
    [
        ("mbpp", "def f(): ...\n", "def f(): ...\n"),
        ("mbpp", "```python\ndef f(): ...\n```", "```python\ndef f(): ...\n```"),
        ("mbpp:form=chat,filter=first-block", "So:\n```python\ndef f(): ...\n```", "def f(): ...\n"),
        ("mbpp:form=instruct", "def f(): ...\n```\nSo.", "def f(): ...\n"),
        ("mbpp:form=instruct", "\ndef f(): ...", "\ndef f(): ..."),
        ("mbpp:form=instruct,filter=extract-code", "\ndef f(): ...\n```\nSo.", "def f(): ..."),
        ("mbpp:form=instruct,filter=as-is", "def f(): ...\n```", "def f(): ...\n```"),
    ],
)
def test_what_is_run(spec: str, text: str, code: str, tmp_path: Path) -> None:
    """The whole text in base and chat; in instruct, up to the fence that the prompt's has opened."""
    task_items.write_all(tmp_path)
    task = load_task(spec, data_dir=tmp_path)
    made = task.grade(task.items()[0], text)
    assert made == Program(code, code, "".join(f"assert plus_11({x}) == {x + 11} \n" for x in range(3)))


def test_the_set_up_comes_after_the_answer() -> None:
    """`test_setup_code` may use what the answer defines, and the tests may use what it makes."""
    row = {
        "task_id": 7,
        "code": "",
        "test_setup_code": "root = Node(1)",
        "test_list": ["assert root.n == 1", "assert f(root) == 2", "assert f(root) > 1", "assert False"],
    }
    item = _item(row, "", "")
    assert item.data["tests"] == "root = Node(1)\nassert root.n == 1\nassert f(root) == 2\nassert f(root) > 1\n"
    answer = "class Node:\n    def __init__(self, n):\n        self.n = n\ndef f(node):\n    return node.n + 1\n"
    assert passed([Mbpp().grade(item, answer), Mbpp().grade(item, answer.replace("+ 1", "+ 2"))]) == [True, False]


def test_the_right_program_passes_in_every_form(tmp_path: Path) -> None:
    """An invented item's own program passes in each form, as a model would write it there."""
    task_items.write_all(tmp_path)
    made = []
    for form, text in (("base", "{}"), ("instruct", "{}\n```\nSo."), ("instruct", "\n{}\n```"), ("chat", "{}")):
        task = Mbpp(form=form, data_dir=str(tmp_path))
        made += [task.grade(item, text.format(item.reference)) for item in task.items()[:3]]
    assert all(passed(made))


def test_items_and_their_names(tmp_path: Path) -> None:
    """Items are the test split, named after their numbers; the answer of the form instruct begins in a block."""
    task_items.write_all(tmp_path)
    base, instruct = (Mbpp(form=form, data_dir=str(tmp_path)).items() for form in ("base", "instruct"))
    assert [item.doc_id for item in base] == [f"mbpp/{i}" for i in range(11, 511)]
    assert {item.prefix for item in base} == {""}
    assert {item.prefix for item in instruct} == {"\n```python\n"}


def test_stop_strings_and_gradings() -> None:
    """Base ends at [DONE], as its examples do; instruct ends at its fence, which its filter finds."""
    base, instruct, chat = Mbpp(), Mbpp(form="instruct"), Mbpp(form="chat")
    assert (base.stop, instruct.stop, chat.stop) == (("[DONE]",), (), ("[DONE]",))
    assert base.grading == chat.grading == "as-is, tests run"
    assert instruct.grading == "first-block, tests run"
    assert base.needs_sandbox and not base.grade(Item("m/1", "", "", {"tests": ""}), "").is_harmless


@pytest.mark.parametrize("missing", [3, 11, 510])
def test_missing_items(missing: int, tmp_path: Path) -> None:
    """A file without an item of the test split or an example is refused by its number."""
    rows = [row for row in task_items.mbpp_rows() if row["task_id"] != missing]
    task_items.write_lines(tmp_path / "mbpp.jsonl", rows)
    with pytest.raises(UsageError, match=f"data: got no MBPP item {missing}, expected all of 11 to 510"):
        Mbpp(data_dir=str(tmp_path)).items()


def test_too_few_tests(tmp_path: Path) -> None:
    """An item with less than the three tests that a prompt shows is refused."""
    rows = task_items.mbpp_rows()
    rows[20]["test_list"] = rows[20]["test_list"][:2]
    task_items.write_lines(tmp_path / "mbpp.jsonl", rows)
    with pytest.raises(UsageError, match="mbpp/21: test_list: got 2 tests, expected at least 3"):
        Mbpp(data_dir=str(tmp_path)).items()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"filter": "extract_code"}, "filter: got 'extract_code', expected one of as-is, extract-code, first-block"),
        ({"form": "plain"}, "form: got 'plain', expected one of base, chat, instruct"),
        ({"shots": 4}, "shots: got 4, expected 0 to 3"),
    ],
)
def test_wrong_parameters(given: dict[str, str], message: str) -> None:
    """A value that nobody knows is a usage error that names those that are known."""
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(Mbpp(), **given)
    assert message in str(caught.value)
