"""What the tasks with real test sets share: their forms, and the hash of their items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.tasks.base import Item, dump_items

FORMS = ("base", "instruct")


def require(what: str, got: str, allowed: Iterable[str]) -> None:
    """UsageError unless `got` is one of `allowed`."""
    allowed = list(allowed)
    if got not in allowed:
        raise unknown(what, got, allowed)


def require_shots(got: int, most: int | None = None) -> None:
    """UsageError unless so many solved examples can be had."""
    if got < 0 or (most is not None and got > most):
        raise UsageError(f"shots: got {got}, expected 0 {f'to {most}' if most is not None else 'or more'}")


def prompt_format(form: str) -> str:
    """Whether the prompts of a form go through the chat template."""
    return "plain" if form == "base" else "chat"


def hash_items(items: Sequence[Item]) -> str:
    """SHA-256 (hex) of a test set, prompts included."""
    return hashlib.sha256(dump_items(items).encode()).hexdigest()
