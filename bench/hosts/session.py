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
from l2pd_bench.hosts.graphs import Graphs, Places, bucket
from l2pd_bench.hosts.room import Room
from l2pd_bench.hosts.transformer import Transformer


class _Rows:
    """What every session has: where its rows' columns stand, and a room for what is kept."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int, room: Room) -> None:
        self.model, self.length, self.padding, self.room = model, length, list(padding), room

    def rotary(self, at: int | Tensor, n: int, padding: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B or 1, N, 1, head_dim) of the `n` columns from `at` on, or of the columns `at` (B, N)."""
        room = self.room
        if isinstance(at, int) and not any(padding):
            return room.cos[None, at : at + n], room.sin[None, at : at + n]
        positions = self.positions(room.columns[at : at + n] if isinstance(at, int) else at, padding)
        return room.cos[positions], room.sin[positions]

    def positions(self, columns: Tensor, padding: Sequence[int]) -> Tensor:
        """The positions (B, N) that columns (N,) or (B, N) are for each row; for those it does not have, any."""
        return (columns - self.told(padding)).clamp(0, self.length - 1)

    def told(self, numbers: Sequence[int]) -> Tensor:
        """A number for each row, (B, 1) int64 on the device."""
        return torch.tensor(list(numbers), device=self.room.columns.device)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (B, N, V) of hidden rows (B, N, d)."""
        logits: Tensor = self.model.head(self.model.norm(hidden))
        return logits


class TransformerSession(_Rows):
    """See `Session`. Rows at the same columns are fed by slices; others by an index, which costs a little more.

    `graphs`: what feeds a block alone is recorded there once, and replayed.
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
        graphs: Graphs | None = None,
    ) -> None:
        slots = (slots or len(padding)) if cached else 0
        self.graphs = graphs if cached else None
        room = Room(model, slots, length) if self.graphs is None else self.graphs.lend(slots, length)
        super().__init__(model, padding, length, room)
        self.attention = attention
        self.lent = self.graphs.lent if self.graphs else 0

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
        """See `Session.forward`; the head sees the blocks' rows only."""
        if self.graphs is not None and self.graphs.lent != self.lent:
            raise RuntimeError("another session was opened on the same model and has this one's room: one at a time")
        padding, size = [self.padding[i] for i in rows], size_of(blocks)
        is_block = ids.shape[1] == size and all(b.start == at for b, at in zip(blocks, starts, strict=True))
        if self.graphs is not None and is_block and slot == 0:
            return self._replayed(self.graphs, ids, blocks, padding, lengths)
        hidden = self.feed(ids, starts, padding, lengths, slot)
        return self.logits(self.wanted(hidden, starts, blocks, slot))

    def _replayed(
        self, graphs: Graphs, ids: Tensor, blocks: Sequence[slice], padding: Sequence[int], lengths: Sequence[int]
    ) -> Tensor:
        """Logits of blocks that are all that is fed, in the slots from 0 on."""
        starts, room, keys = [block.start for block in blocks], self.room, bucket(max(lengths))

        def places() -> Places:
            columns, here = self.columns(starts, ids.shape[1]), room.columns[:keys]
            has = (here >= self.told(padding)) & (here < self.told(lengths))
            return Places(self.stored(columns, lengths), self.positions(columns, padding), has[:, None, None])

        def compute(ids: Tensor, places: Places) -> Tensor:
            assert room.store is not None
            cos, sin = room.cos[places.positions], room.sin[places.positions]
            store = room.store[:, :, : len(ids)]
            hidden = self.model.hidden(ids, cos, sin, places.attend, store, places.at, keys)
            return self.logits(self.wanted(hidden, starts, blocks, 0))

        return graphs.forward(ids.clamp(min=0), (starts, list(padding), list(lengths)), places, compute)

    def feed(
        self, ids: Tensor, starts: Sequence[int], padding: Sequence[int], lengths: Sequence[int], slot: int
    ) -> Tensor:
        """Hidden rows (B, N, d) of the columns [start, start + N), before the final norm."""
        n, keys, store = ids.shape[1], max(lengths), self.room.store
        attend = self.attend(padding, lengths, slice(0 if store is not None else starts[0], keys))
        at: int | Tensor = starts[0]
        if len(set(starts)) > 1:
            at = self.columns(starts, n)
        if attend is not None or isinstance(at, Tensor):
            ids = ids.clamp(min=0)  # where a row has no column any token will do, as nothing attends to it
        cos, sin = self.rotary(at, n, padding)
        if isinstance(at, Tensor):
            at = self.stored(at, lengths)
        with self.attention.only():
            here = None if store is None else store[:, :, slot : slot + len(ids)]
            return self.model.hidden(ids, cos, sin, attend, here, at, keys)

    def columns(self, starts: Sequence[int], n: int) -> Tensor:
        """The `n` columns (B, N) of each row from its own of `starts` on."""
        return self.told(starts) + self.room.columns[:n]

    def stored(self, at: Tensor, lengths: Sequence[int]) -> Tensor:
        """Where keys and values of the columns `at` (B, N) are kept; behind all others if a row does not have one."""
        return torch.where(at < self.told(lengths), at, self.room.length)

    def attend(self, padding: Sequence[int], lengths: Sequence[int], keys: slice) -> Tensor | None:
        """What each row has of the columns `keys`, (B, 1, 1, their number) bool; None if all have all."""
        if max(padding) <= keys.start and min(lengths) == keys.stop:
            return None
        self.attention.require_masks()
        columns = self.room.columns[keys]
        return ((columns >= self.told(padding)) & (columns < self.told(lengths)))[:, None, None]

    def wanted(self, hidden: Tensor, starts: Sequence[int], blocks: Sequence[slice], slot: int) -> Tensor:
        """Of the hidden rows (B, N, d) those that predict the blocks, (B, C, d)."""
        return _cut(hidden, [block.start - start for block, start in zip(blocks, starts, strict=True)], size_of(blocks))

    def move(self, source: int, target: int) -> None:
        """See `Session.move`."""
        self.room.move(source, target)


class ShiftedSession(TransformerSession):
    """A session on a network that predicts every token from its left neighbour (Dream, arXiv 2508.15487).

    The row that predicts a block's first token stands left of the block. Where a window
    begins at the block, that row's hidden state is the one of the last forward that fed it,
    which is the block's first: a reused row, as the keys and values around it are.
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
        """See `Session.forward`; a UsageError for a row without any column left of the block."""
        if any(block.start <= self.padding[row] for block, row in zip(blocks, rows, strict=True)):
            raise UsageError(
                "model: predicts every token from the one before it, got an empty prompt; "
                "expected at least one token before the answer"
            )
        if (at := [block.start for block in blocks]) == list(starts):
            assert self.room.left_of[slot : slot + len(at)] == at, "the block's first forward feeds all columns"
        return super().forward(ids, starts, blocks, rows=rows, lengths=lengths, slot=slot)

    def wanted(self, hidden: Tensor, starts: Sequence[int], blocks: Sequence[slice], slot: int) -> Tensor:
        """See `TransformerSession.wanted`: one to the left; that of before a window is where it is kept."""
        count, at = size_of(blocks), [block.start for block in blocks]
        if list(starts) == at:
            assert self.room.left is not None
            return torch.cat([self.room.left[slot : slot + len(at)], hidden[:, : count - 1]], 1)
        rows = _cut(hidden, [b - 1 - start for b, start in zip(at, starts, strict=True)], count)
        if self.room.store is not None:
            self.room.keep_left(slot, rows[:, :1], at)
        return rows


class CausalTransformerSession(_Rows):
    """See `CausalSession`: a column attends to itself and to what is left of it."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int) -> None:
        super().__init__(model, padding, length, Room(model, len(padding), length))

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """See `CausalSession.forward`."""
        stop = columns.stop - 1
        queries, keys = self.room.columns[start:stop, None], self.room.columns[:stop]
        attend = keys <= queries  # (N, stop)
        if any(self.padding):  # padding sees itself: the mean of nothing is NaN in some kernels
            attend = attend & (keys >= self.told(self.padding)[..., None]) | (keys == queries)  # (B, N, stop)
            attend = attend[:, None]
        cos, sin = self.rotary(start, stop - start, self.padding)
        hidden = self.model.hidden(ids, cos, sin, attend, self.room.store, start, stop)
        return self.logits(hidden[:, columns.start - 1 - start :])


def size_of(blocks: Sequence[slice]) -> int:
    """The one size of some blocks."""
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
