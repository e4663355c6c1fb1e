"""`mbpp`: a sentence and three tests; the answer is a Python function that passes them.

Prompts, solved examples and stop strings are those of lm-eval's tasks `mbpp` (form base)
and `mbpp_instruct`. In the form chat the text of base is one user turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from l2pd_bench.errors import UsageError
from l2pd_bench.tasks import common
from l2pd_bench.tasks.base import Item, Program
from l2pd_bench.tasks.code_answers import extract_code, first_block
from l2pd_bench.tasks.data import Row, Source, read

FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str}
SOURCE = Source(
    "mbpp.jsonl",
    "https://github.com/google-research/google-research/tree/master/mbpp",
    "google-research-datasets/mbpp",
    (("full", "prompt"), ("full", "test")),
    FIELDS,
    "task_id",
)
TEST_IDS = range(11, 511)
SHOT_IDS = (2, 3, 4)  # of the ten that are set aside for prompts, those in lm-eval's
TESTS = 3  # shown and run, as in lm-eval; challenge_test_list, harder ones that few items have, is not
FORMS = ("base", "instruct", "chat")
FILTERS = ("as-is", "first-block", "extract-code")
PREFIX = "\n```python\n"


@dataclass(frozen=True)
class Mbpp:
    """MBPP: 500 short Python functions from a sentence and 3 tests, with 3 solved examples; the tests are run.

    `filter` as-is takes the whole text, first-block its first block of Python, and
    extract-code what lm-eval's mbpp_instruct takes; by default first-block in the form
    instruct, else as-is. The form chat has the text of base as one user turn.
    """

    name: ClassVar[str] = "mbpp"
    gen_length: ClassVar[int] = 256
    needs_sandbox: ClassVar[bool] = True
    form: str = "base"
    data_dir: str | None = None
    shots: int = 3
    filter: str | None = None

    def __post_init__(self) -> None:
        common.require("form", self.form, FORMS)
        common.require("filter", self._filter, FILTERS)
        common.require_shots(self.shots, len(SHOT_IDS))

    @property
    def stop(self) -> tuple[str, ...]:
        """See `Task.stop`."""
        return () if self.form == "instruct" else ("[DONE]",)

    @property
    def prompt_format(self) -> str:
        """See `Task.prompt_format`."""
        return common.prompt_format(self.form)

    @property
    def few_shot(self) -> int:
        """See `Task.few_shot`."""
        return self.shots

    @property
    def grading(self) -> str:
        """See `Task.grading`."""
        return f"{self._filter}, tests run"

    @cached_property
    def data_hash(self) -> str:
        """See `Task.data_hash`."""
        return common.hash_items(self.items())

    def items(self) -> Sequence[Item]:
        """The test split; an item is named after its number in the data."""
        return self._items

    def grade(self, item: Item, text: str) -> Program:
        """Run what the filter finds in the text, and then the item's tests."""
        match self._filter:
            case "first-block":
                code = first_block(text, is_open=self.form == "instruct")
            case "extract-code":
                code = extract_code(text)
            case _:
                code = text
        return Program(code, code, item.data["tests"])

    @property
    def _filter(self) -> str:
        return self.filter or ("first-block" if self.form == "instruct" else "as-is")

    @cached_property
    def _items(self) -> list[Item]:
        rows = {row["task_id"]: row for row in read(SOURCE, self.data_dir)}
        for number in (*SHOT_IDS[: self.shots], *TEST_IDS):
            if number not in rows:
                raise UsageError(f"data: got no MBPP item {number}, expected all of 11 to 510, and 2 to 4 as examples")
            if (got := len(rows[number]["test_list"])) < TESTS:
                raise UsageError(f"data: mbpp/{number}: test_list: got {got} tests, expected at least {TESTS}")
        ask, end = (_ask_instruct, f"\n{'`' * 3}") if self.form == "instruct" else (_ask, "\n[DONE]")
        prefix = PREFIX if self.form == "instruct" else ""
        shots = (rows[number] for number in SHOT_IDS[: self.shots])
        examples = "".join(f"{ask(shot)}{prefix}{shot['code']}{end}\n\n" for shot in shots)
        return [_item(rows[number], examples + ask(rows[number]), prefix) for number in TEST_IDS]


def _item(row: Row, prompt: str, prefix: str) -> Item:
    # The set-up makes objects of a class that the answer defines: it comes after the answer.
    parts = (row["test_setup_code"], *row["test_list"][:TESTS])
    return Item(f"mbpp/{row['task_id']}", prompt, row["code"], {"tests": "\n".join(filter(None, parts)) + "\n"}, prefix)


def _ask(row: Row) -> str:
    tests = "\n".join(row["test_list"][:TESTS])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _ask_instruct(row: Row) -> str:
    tests = "\n".join(row["test_list"][:TESTS])
    return (
        f"You are an expert Python programmer, and here is your task:\n{row['text']}\n"
        f"Your code should pass these tests:\n{tests}"
    )
