"""Some rows on a `Transformer`: rotary tables, attention masks, and keys and values by slot and column.

What every transformer host opens. It is given ids and where they stand, and knows
nothing of tokenizers, files or tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.attention import SDPA, Attention
from l2pd_bench.hosts.transformer import Transformer, rotary_table


class _Rows:
    """What every session has: where its rows' columns stand, and a store of `slots` for keys and values, if any."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int, slots: int) -> None:
        config, weight = model.config, model.embed.weight
        self.model, self.length, self.padding = model, length, list(padding)
        self.columns = torch.arange(length, device=weight.device)
        cos, sin = rotary_table(self.columns, config.head_dim, config.rope_theta)
        self.cos, self.sin = (part.to(model.rope_dtype)[:, None] for part in (cos, sin))  # (L, 1, head_dim)
        self.store: Tensor | None = None
        if slots:  # with one column more, for the keys of columns that a row does not have
            # Zeros, as what a row does not have is weighed with 0, and 0 * NaN would be NaN.
            shape = (config.n_layers, 2, slots, length + 1, config.kv_heads, config.head_dim)
            self.store = torch.zeros(shape, dtype=weight.dtype, device=weight.device)

    def rotary(self, at: int | Tensor, n: int, padding: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B or 1, N, 1, head_dim) of the `n` columns from `at` on, or of the columns `at` (B, N)."""
        if isinstance(at, int) and not any(padding):
            return self.cos[None, at : at + n], self.sin[None, at : at + n]
        columns = self.columns[at : at + n] if isinstance(at, int) else at
        positions = (columns - self.told(padding)).clamp(0, self.length - 1)  # (B, N)
        return self.cos[positions], self.sin[positions]

    def told(self, numbers: Sequence[int]) -> Tensor:
        """A number for each row, (B, 1) int64 on the device."""
        return torch.tensor(list(numbers), device=self.columns.device)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (B, N, V) of hidden rows (B, N, d)."""
        logits: Tensor = self.model.head(self.model.norm(hidden))
        return logits


class TransformerSession(_Rows):
    """See `Session`. Rows at the same columns are fed by slices; others by an index, which costs a little more."""

    def __init__(
        self,
        model: Transformer,
        padding: Sequence[int],
        length: int,
        *,
        cached: bool,
        slots: int | None = None,
        attention: Attention = SDPA,
    ) -> None:
        super().__init__(model, padding, length, (slots or len(padding)) if cached else 0)
        self.attention = attention

    def forward(
        self,
        ids: Tensor,
        start: int | Sequence[int],
        block: slice | Sequence[slice],
        *,
        rows: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        slot: int = 0,
    ) -> Tensor:
        """See `Session.forward`; the head sees the blocks' rows only."""
        padding = self.padding if rows is None else [self.padding[i] for i in rows]
        lengths = [self.length] * len(padding) if lengths is None else lengths
        starts = [start] * len(padding) if isinstance(start, int) else start
        hidden = self.feed(ids, starts, padding, lengths, slot)
        blocks = [block] * len(padding) if isinstance(block, slice) else block
        return self.logits(self.wanted(hidden, starts, blocks, slot))

    def feed(
        self, ids: Tensor, starts: Sequence[int], padding: Sequence[int], lengths: Sequence[int], slot: int
    ) -> Tensor:
        """Hidden rows (B, N, d) of the columns [start, start + N), before the final norm."""
        n, keys = ids.shape[1], max(lengths)
        attend = self.attend(padding, lengths, slice(0 if self.store is not None else starts[0], keys))
        store = None if self.store is None else self.store[:, :, slot : slot + len(ids)]
        at: int | Tensor = starts[0]
        if len(set(starts)) > 1:
            at = self.told(starts) + self.columns[:n]  # (B, N)
        if attend is not None or isinstance(at, Tensor):
            ids = ids.clamp(min=0)  # where a row has no column any token will do, as nothing attends to it
        cos, sin = self.rotary(at, n, padding)
        if isinstance(at, Tensor):
            at = torch.where(at < self.told(lengths), at, self.length)
        with self.attention.only():
            return self.model.hidden(ids, cos, sin, attend, store, at, keys)

    def attend(self, padding: Sequence[int], lengths: Sequence[int], keys: slice) -> Tensor | None:
        """What each row has of the columns `keys`, (B, 1, 1, their number) bool; None if all have all."""
        if max(padding) <= keys.start and min(lengths) == keys.stop:
            return None
        self.attention.require_masks()
        columns = self.columns[keys]
        return ((columns >= self.told(padding)) & (columns < self.told(lengths)))[:, None, None]

    def wanted(self, hidden: Tensor, starts: Sequence[int], blocks: Sequence[slice], slot: int) -> Tensor:
        """Of the hidden rows (B, N, d) those that predict the blocks, (B, C, d)."""
        return _cut(hidden, [block.start - start for block, start in zip(blocks, starts, strict=True)], _size(blocks))

    def move(self, source: int, target: int) -> None:
        """See `Session.move`."""
        assert self.store is not None
        self.store[:, :, target] = self.store[:, :, source]


class ShiftedSession(TransformerSession):
    """A session on a network that predicts every token from its left neighbour (Dream, arXiv 2508.15487).

    The row that predicts a block's first token stands left of the block. Where a window
    begins at the block, that row's hidden state is the one of the last forward that fed it,
    which is the block's first: a reused row, as the keys and values around it are.
    """

    def __init__(
        self,
        model: Transformer,
        padding: Sequence[int],
        length: int,
        *,
        cached: bool,
        slots: int | None = None,
        attention: Attention = SDPA,
    ) -> None:
        super().__init__(model, padding, length, cached=cached, slots=slots, attention=attention)
        weight, slots = model.embed.weight, slots or len(self.padding)
        self.left = torch.empty(slots, 1, model.config.d_model, dtype=weight.dtype, device=weight.device)
        self.left_of: list[int | None] = [None] * slots  # the block it predicts the first token of

    def forward(
        self,
        ids: Tensor,
        start: int | Sequence[int],
        block: slice | Sequence[slice],
        *,
        rows: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        slot: int = 0,
    ) -> Tensor:
        """See `Session.forward`; a UsageError for a row without any column left of the block."""
        padding = self.padding if rows is None else [self.padding[i] for i in rows]
        blocks = [block] * len(padding) if isinstance(block, slice) else block
        if any(b.start <= pad for b, pad in zip(blocks, padding, strict=True)):
            raise UsageError(
                "model: predicts every token from the one before it, got an empty prompt; "
                "expected at least one token before the answer"
            )
        return super().forward(ids, start, block, rows=rows, lengths=lengths, slot=slot)

    def wanted(self, hidden: Tensor, starts: Sequence[int], blocks: Sequence[slice], slot: int) -> Tensor:
        """See `TransformerSession.wanted`: one to the left; that of before a window is where it is kept."""
        count, at = _size(blocks), [block.start for block in blocks]
        here = slice(slot, slot + len(at))
        if list(starts) == at:
            assert self.left_of[here] == at, "the block's first forward feeds all columns"
            return torch.cat([self.left[here], hidden[:, : count - 1]], 1)
        rows = _cut(hidden, [b - 1 - start for b, start in zip(at, starts, strict=True)], count)
        if self.store is not None:
            self.left[here], self.left_of[here] = rows[:, :1], at
        return rows

    def move(self, source: int, target: int) -> None:
        """See `Session.move`."""
        super().move(source, target)
        self.left[target], self.left_of[target] = self.left[source], self.left_of[source]


class CausalTransformerSession(_Rows):
    """See `CausalSession`: a column attends to itself and to what is left of it."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int) -> None:
        super().__init__(model, padding, length, len(padding))

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """See `CausalSession.forward`."""
        stop = columns.stop - 1
        queries, keys = self.columns[start:stop, None], self.columns[:stop]
        attend = keys <= queries  # (N, stop)
        if any(self.padding):  # padding sees itself: the mean of nothing is NaN in some kernels
            attend = attend & (keys >= self.told(self.padding)[..., None]) | (keys == queries)  # (B, N, stop)
            attend = attend[:, None]
        cos, sin = self.rotary(start, stop - start, self.padding)
        hidden = self.model.hidden(ids, cos, sin, attend, self.store, start, stop)
        return self.logits(hidden[:, columns.start - 1 - start :])


def _size(blocks: Sequence[slice]) -> int:
    (size,) = {int(block.stop - block.start) for block in blocks}
    return size


def _cut(hidden: Tensor, firsts: Sequence[int], count: int) -> Tensor:
    """`count` rows of each (B, N, d) from its own of `firsts` on: a view where these are all the same."""
    if len(set(firsts)) == 1:
        return hidden[:, firsts[0] : firsts[0] + count]
    device, last = hidden.device, hidden.shape[1] - 1
    index = torch.tensor(list(firsts), device=device)[:, None] + torch.arange(count, device=device)
    index = index.clamp(max=last)[..., None].expand(-1, -1, hidden.shape[2])
    return hidden.gather(1, index)
