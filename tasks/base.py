"""What a task is to the harness: items with prompts, and a grader for answer texts.

A task knows nothing about models, canvases, strategies or clocks. It hands out prompts
as plain text (the host wraps them in its chat template) and grades plain text. It runs no
generated code either: it says what is to be run, and the harness does that in a sandbox.

A task's class may be a frozen dataclass, whose fields are its parameters
(`--task name:key=value`). Fields of these names are filled in where the user wrote none:
`form`, "instruct" for a host that chats and else "base", and `data_dir`, the folder that
`--data-dir` names.
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
    needs beyond it, JSON-able. `prefix` is what the answer is made to begin with; it
    stands on the canvas before the first mask and is no part of the text that is graded.
    """

    doc_id: str
    prompt: str
    reference: str
    data: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""


class Verdict(NamedTuple):
    """What grading found: the answer it read out of the text, and its score in [0, 1]."""

    answer: str
    score: float

    @property
    def correct(self) -> bool:
        """Whether the score is full marks."""
        return self.score >= 1.0


class Program(NamedTuple):
    """What grading has to run: the answer, as a verdict shows it, a program, and tests to run after it.

    The score is 1 if both run to their end. `is_harmless` says that the task itself has
    refused every program that could do harm, so that a plain limited process will do.
    """

    answer: str
    code: str
    tests: str
    is_harmless: bool = False


class Task(Protocol):
    """A test set and its grader.

    `stop` are strings that end an answer (the text is cut before the first of them).
    `prompt_format` is "chat" (prompts go through the host's chat template) or "plain".
    `grading` says how a text is judged: what is taken out of it, and by what it is
    compared, with the version of a library that decides. `data_hash` is the SHA-256 of
    the items, prompts included. All of these are part of the protocol, so rows over
    different test sets are never ranked together.

    A task whose programs might do harm says so by `needs_sandbox = True` (no, where it is
    left out), so that a machine without a sandbox is found out before anything is decoded.
    """

    @property
    def name(self) -> str:
        """As it is registered; what it goes on with, after a colon, is its own."""
        ...

    @property
    def gen_length(self) -> int:
        """Masks to fill, unless the user says otherwise."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        ...

    @property
    def prompt_format(self) -> str:
        """One of "chat" and "plain"."""
        ...

    @property
    def few_shot(self) -> int:
        """Solved examples in a prompt."""
        ...

    @property
    def grading(self) -> str:
        """How a text is judged."""
        ...

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the test set."""
        ...

    def items(self) -> Sequence[Item]:
        """The test set, always in the same order."""
        ...

    def grade(self, item: Item, text: str) -> Verdict | Program:
        """Grade the answer text (already cut at EoT and at the stop strings), or say what to run for that."""
        ...


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The part of `text` before the first of the `stop` strings."""
    ends = [at for at in (text.find(s) for s in stop if s) if at >= 0]
    return text[: min(ends)] if ends else text


def dump_items(items: Sequence[Item]) -> str:
    """Items as JSON lines, the form in which test sets are stored."""
    return "".join(json.dumps(asdict(item), sort_keys=True) + "\n" for item in items)
