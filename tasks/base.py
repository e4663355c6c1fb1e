"""What a task is to the harness: items with prompts, and a grader for answer texts.

A task knows nothing about models, canvases, strategies or clocks. It hands out prompts
as plain text (the host wraps them in its chat template) and grades plain text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class Item:
    """One question of a test set.

    `doc_id` is unique in its task and stable over time: records refer to items by it.
    `reference` is one right answer (there may be others); `data` is what the grader
    needs beyond it, JSON-able.
    """

    doc_id: str
    prompt: str
    reference: str
    data: dict[str, Any] = field(default_factory=dict)


class Verdict(NamedTuple):
    """What grading found: the answer it read out of the text, and its score in [0, 1]."""

    answer: str
    score: float

    @property
    def correct(self) -> bool:
        """Whether the score is full marks."""
        return self.score >= 1.0


class Task(Protocol):
    """A test set and its grader.

    `stop` are strings that end an answer (the text is cut before the first of them).
    `data_hash` is the SHA-256 of the items as stored; it is part of the protocol, so
    rows over different test sets are never ranked together.
    """

    name: str
    gen_length: int
    stop: tuple[str, ...]
    prompt_format: str
    few_shot: int

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the test set."""
        ...

    def items(self) -> Sequence[Item]:
        """The test set, always in the same order."""
        ...

    def grade(self, item: Item, text: str) -> Verdict:
        """Grade the answer text (already cut at EoT and at the stop strings)."""
        ...


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The part of `text` before the first of the `stop` strings."""
    ends = [at for at in (text.find(s) for s in stop if s) if at >= 0]
    return text[: min(ends)] if ends else text


def dump_items(items: Sequence[Item]) -> str:
    """Items as JSON lines, the form in which test sets are stored."""
    return "".join(json.dumps(asdict(item), sort_keys=True) + "\n" for item in items)
