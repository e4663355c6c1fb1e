"""One forward of a session whose rows all stand at the same columns, as most tests want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def feed(
    session: Any,
    ids: Tensor,
    start: int,
    block: slice,
    *,
    rows: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    slot: int = 0,
) -> Tensor:
    """Logits (B, C, V): `Session.forward` with the same start and block for each; by default all rows, whole."""
    rows = range(len(ids)) if rows is None else rows
    count = len(rows)
    lengths = [session.length] * count if lengths is None else lengths
    logits: Tensor = session.forward(ids, [start] * count, [block] * count, rows=rows, lengths=lengths, slot=slot)
    return logits
