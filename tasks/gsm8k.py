"""`gsm8k`: grade-school word problems with a worked answer that ends in `#### number`.

Prompts, stop strings and grading are those of lm-eval's task `gsm8k`, version 3. Its solved
examples are drawn anew for every item, by one generator that goes through the whole test
set, so they are drawn here for all items, however many are decoded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from l2pd_bench.errors import UsageError
from l2pd_bench.tasks import common
from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.data import Row, Source, read

URL = "https://github.com/openai/grade-school-math (grade_school_math/data/{}.jsonl)"
HUB = "openai/gsm8k"
FIELDS = {"question": str, "answer": str}
TEST = Source("gsm8k_test.jsonl", URL.format("test"), HUB, (("main", "test"),), FIELDS)
TRAIN = Source("gsm8k_train.jsonl", URL.format("train"), HUB, (("main", "train"),), FIELDS)
SHOTS_SEED = 1234  # lm-eval's for solved examples

# What the answer is read from, and which of the places where it is found counts.
FILTERS = {
    "strict-match": (re.compile(r"#### (-?[0-9.,]+)"), 0),
    "flexible-extract": (re.compile(r"(-?[$0-9.,]{2,}|-?[0-9]+)"), -1),
}
# What does not count in a comparison, removed in this order.
IGNORED = tuple(re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"))


@dataclass(frozen=True)
class Gsm8k:
    """GSM8K: 1,319 word problems of grade school, with 5 solved examples; the number after #### counts.

    `filter` strict-match wants the `####`; flexible-extract takes the last number. The form
    instruct has the same text as one user turn.
    """

    name: ClassVar[str] = "gsm8k"
    gen_length: ClassVar[int] = 256
    stop: ClassVar[tuple[str, ...]] = ("Question:", "</s>", "<|im_end|>")
    form: str = "base"
    data_dir: str | None = None
    shots: int = 5
    filter: str = "strict-match"

    def __post_init__(self) -> None:
        common.require("form", self.form, common.FORMS)
        common.require("filter", self.filter, FILTERS)
        common.require_shots(self.shots)

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
        return self.filter

    @cached_property
    def data_hash(self) -> str:
        """See `Task.data_hash`."""
        return common.hash_items(self.items())

    def items(self) -> Sequence[Item]:
        """The test split; an item is named after its line."""
        return self._items

    def grade(self, item: Item, text: str) -> Verdict:
        """Compare the number that the filter finds in the text with the reference's."""
        pattern, which = FILTERS[self.filter]
        found = pattern.findall(text)
        answer: str = found[which].strip() if found else ""
        return Verdict(answer, float(_normal(answer) == _normal(item.reference)))

    @cached_property
    def _items(self) -> list[Item]:
        rows = read(TEST, self.data_dir)
        train = read(TRAIN, self.data_dir) if self.shots else []
        if self.shots > len(train):
            raise UsageError(f"shots: got {self.shots}, expected no more than the training split has, {len(train)}")
        rng = random.Random(SHOTS_SEED)
        return [_item(i, row, rng.sample(train, self.shots)) for i, row in enumerate(rows)]


def _item(index: int, row: Row, shots: Sequence[Row]) -> Item:
    name = f"gsm8k/{index}"
    if FILTERS["strict-match"][0].search(row["answer"]) is None:
        raise UsageError(f"data: {name}: got an answer without '#### number', expected GSM8K's own answers")
    examples = "".join(f"{_ask(shot)} {shot['answer']}\n\n" for shot in shots)
    return Item(name, examples + _ask(row), row["answer"])


def _ask(row: Row) -> str:
    return f"Question: {row['question']}\nAnswer:"


def _normal(answer: str) -> str:
    for pattern in IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()
