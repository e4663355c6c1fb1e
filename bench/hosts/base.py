"""What a host is to the engine: a tokenizer, a chat template, and a windowed forward.

One interface for every family. The engine speaks of canvas columns; left padding,
rotary positions, where keys and values are kept, and whether the family's logits are
shifted by one (Dream) are the host's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from l2pd_bench.errors import UsageError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class HostRequest:
    """Which model is asked for, and how it shall compute; "auto" and None leave that to the host's loader.

    A checkpoint's files are found before its loader is called: it gets their `folder`, and
    the `revision` (a commit) if they are a hub repository's.
    """

    name: str  # as records store it
    params: Mapping[str, str] = field(default_factory=dict)  # of `--model name:key=value`
    folder: Path | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str | None = None
    weights: str | None = None  # "random": a shape without a checkpoint
    fast: bool = True  # False: compute every forward the plain way (`hosts/plain.py`)

    def refuse(self, *names: str) -> None:
        """Raise UsageError for one of these fields that was given to a loader that knows nothing of it."""
        defaults = {f.name: f.default for f in fields(self)}
        for name in names:
            if (got := getattr(self, name)) not in (defaults[name], {}):
                raise UsageError(f"{name}: got '{got}' for model '{self.name}', which has no such choice; leave it out")

    def torch_device(self) -> torch.device:
        """The device; "auto" is the accelerator, where there is one. A UsageError if it cannot be used here."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return torch.zeros(1, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"device: got '{name}', which cannot be used here ({error}); try cpu") from error

    def torch_dtype(self, default: torch.dtype) -> torch.dtype:
        """The dtype; "auto" is `default`."""
        if self.dtype == "auto":
            return default
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        return DTYPES[self.dtype]


class Session(Protocol):
    """The host's state for some canvases (P rows, L columns), of which some are at work at a time.

    A session that was opened `cached` has places for the keys and values of rows, its slots.
    """

    def forward(
        self,
        ids: Tensor,
        starts: Sequence[int],
        blocks: Sequence[slice],
        *,
        rows: Sequence[int],
        lengths: Sequence[int],
        slot: int = 0,
    ) -> Tensor:
        """Feed `N` columns of some rows and return the logits that predict a block of each.

        For B rows each: `rows`, which of the P they are; `starts`, the first column fed; `ids`
        (B, N) int64, the canvas from there on (-1 where a row has no column); `blocks`, of one
        size C; `lengths`, the column behind the row's last, what is beyond is not attended
        to. Returns (B, C, V) in the host's dtype; what is predicted for a column that a row
        does not have means nothing. The logits are the caller's to change.

        Of a cached session the rows are at the slots from `slot` on: keys and values of the
        fed columns replace those kept there, and every column of the row that is kept or fed
        is attended to. A row's first forward in a slot feeds all its columns.
        """
        ...

    def move(self, source: int, target: int) -> None:
        """Put what is kept in slot `source` into slot `target`."""
        ...


class CausalSession(Protocol):
    """An autoregressive model's state for some canvases; padding is on the left, as for a host."""

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """Feed columns [start, columns.stop - 1) and return the logits that predict `columns`, each from its left.

        `ids`: (B, columns.stop - 1 - start) int64, none negative. Returns (B, number of columns, V) in the
        model's dtype; they are the caller's to change. `start` is before the first of `columns`,
        and columns before it were fed earlier: their keys and values are used again, whatever
        was fed right of them.
        """
        ...


@dataclass(frozen=True)
class CausalModel:
    """An autoregressive model that speaks a host's ids: its logits are as wide as the host's."""

    name: str
    mask_id: int  # the host's, which is never predicted
    open: Callable[[Sequence[int], int], CausalSession]  # of (padding, length), as in `Host.open`
    flops: Callable[[int, int, int], int]  # as `Host.flops`


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
    is_chat: bool  # whether it was trained to answer in its chat template
    is_trained: bool  # False for random weights, whose answers are not graded
    trained_tasks: frozenset[str] | None  # None: any task is fair; otherwise those it was trained for

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the canvas must be."""
        ...

    def encode(self, prompt: str, prefix: str = "", *, chat: bool | None = None) -> list[int]:
        """Prompt text -> ids, as the one user turn of the host's chat template if `chat`, else as it is.

        None is what the host is trained for. `prefix` is what the answer begins with. A
        UsageError for `chat` without a template.
        """
        ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat (of "role" and "content") as text, special tokens spelled out, up to where the answer begins.

        A last message of the assistant's is what the answer begins with. A UsageError for a
        chat that the template cannot hold.
        """
        ...

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of what `render` gave."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text, special tokens dropped."""
        ...

    def open(self, padding: Sequence[int], length: int, *, cached: bool, slots: int | None = None) -> Session:
        """Begin with some rows: row i has `padding[i]` unused columns on the left, of `length` columns in all.

        `cached` says whether forwards that feed only part of the columns will follow, `slots`
        of how many rows keys and values must be kept at a time (None: of all).
        """
        ...

    def flops(self, queries: int, keys: int, logits: int) -> int:
        """Floating-point operations of one forward: columns fed, columns attended to, logit rows made."""
        ...

    def vocabulary(self) -> Mapping[str, int]:
        """Token -> id, of all that an autoregressive model must share to judge this host's tokens.

        What only a diffusion model has, such as MASK, may be left out.
        """
        ...

    def companion(self) -> CausalModel:
        """The autoregressive model that comes with the host; a UsageError if there is none."""
        ...
