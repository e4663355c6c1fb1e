"""What a host is to the engine: a tokenizer, a chat template, and a windowed forward.

One interface for every family. The engine speaks of canvas columns; left padding,
rotary positions, where keys and values are kept, and whether the family's logits are
shifted by one (Dream) are the host's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Session(Protocol):
    """The host's state for one batch of canvases (B rows, L columns)."""

    def forward(self, ids: Tensor, start: int, block: slice) -> Tensor:
        """Feed columns [start, start + N) and return the logits that predict `block`.

        `ids`: (B, N) int64, the canvas there (-1 in padding columns). Returns (B, block length, V) in the host's
        dtype. Keys and values of the fed columns replace those kept for them, and every
        column of the canvas that is kept or fed is attended to (padding never is). The
        first forward of a session, and the first of every block, feeds all columns.
        `block` lies inside the fed columns. The logits are the caller's to change.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (int64 indices), before a forward that feeds all columns."""
        ...


class Host(Protocol):
    """A diffusion language model."""

    name: str  # as the user wrote it
    revision: str
    weights_hash: str
    tokenizer_id: str
    attention: str  # the attention kernel, as the protocol records it
    vocab_size: int
    mask_id: int
    eot_id: int
    trained_tasks: frozenset[str] | None  # None: any task is fair; otherwise those it was trained for

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the canvas must be."""
        ...

    def encode(self, prompt: str) -> list[int]:
        """Prompt text -> ids, in the host's chat template."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text, special tokens dropped."""
        ...

    def open(self, padding: Sequence[int], length: int, *, cached: bool) -> Session:
        """Begin a batch: row i has `padding[i]` unused columns on the left, of `length` columns in all.

        `cached` says whether forwards that feed only part of the columns will follow.
        """
        ...

    def flops(self, queries: int, keys: int, logits: int) -> int:
        """Floating-point operations of one forward: columns fed, columns attended to, logit rows made."""
        ...
