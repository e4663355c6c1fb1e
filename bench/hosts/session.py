"""A batch on a `Transformer`: rotary tables, attention mask, and keys and values by column.

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


class TransformerSession:
    """One batch on a `Transformer`: rotary tables, attention mask, and keys and values by column."""

    def __init__(
        self,
        model: Transformer,
        padding: Sequence[int],
        length: int,
        *,
        cached: bool,
        attention: Attention = SDPA,
    ) -> None:
        config, device = model.config, model.embed.weight.device
        self.model, self.attention = model, attention
        self.columns = torch.arange(length, device=device)
        self.first: Tensor | None = None  # (B, 1): each row's first column, if they differ
        positions = self.columns[None]  # (1, L): the same for every row
        if any(padding):
            self.first = torch.tensor(list(padding), device=device)[:, None]
            positions = (self.columns - self.first).clamp(min=0)  # (B, L)
        cos, sin = rotary_table(positions, config.head_dim, config.rope_theta)
        self.cos, self.sin = cos[:, :, None], sin[:, :, None]  # (B or 1, L, 1, head_dim)
        self.attend: Tensor | None = None  # (B, 1, 1, length): what a row has of the columns, if not all
        self.store: Tensor | None = None
        if cached:
            shape = (config.n_layers, 2, len(padding), length, config.kv_heads, config.head_dim)
            self.store = torch.empty(shape, dtype=model.embed.weight.dtype, device=device)
        self.resize([length] * len(padding))

    def forward(self, ids: Tensor, start: int, block: slice) -> Tensor:
        """See `Session.forward`; the head sees the block's rows only."""
        return self.logits(self.feed(ids, start)[:, block.start - start : block.stop - start])

    def feed(self, ids: Tensor, start: int) -> Tensor:
        """Hidden rows (B, N, d) of the columns [start, start + N), before the final norm."""
        stop = start + ids.shape[1]
        if self.attend is not None:
            ids = ids.clamp(min=0)  # padding: any token will do, as nothing attends to it
        cos, sin = self.cos[:, start:stop], self.sin[:, start:stop]
        store = None if self.store is None else self.store[:, :, :, : self.length]
        with self.attention.only():
            return self.model.hidden(ids, cos, sin, self.attend, store, start)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (B, N, V) of hidden rows (B, N, d)."""
        logits: Tensor = self.model.head(self.model.norm(hidden))
        return logits

    def keep(self, rows: Tensor) -> None:
        """See `Session.keep`; what the store holds is overwritten by the next forward."""
        if self.attend is not None:
            self.attend = self.attend[rows]
        if self.first is not None:
            self.first, self.cos, self.sin = self.first[rows], self.cos[rows], self.sin[rows]
        if self.store is not None:
            self.store = self.store[:, :, : len(rows)]

    def resize(self, lengths: Sequence[int]) -> None:
        """See `Session.resize`; what the store holds of other columns is left where it is."""
        self.length = max(lengths)
        columns = self.columns[: self.length]
        attend = None if self.first is None else columns >= self.first  # (B, length)
        if min(lengths) < self.length:
            within = columns < torch.tensor(list(lengths), device=columns.device)[:, None]
            attend = within if attend is None else attend & within
        if attend is not None:
            self.attention.require_masks()
        self.attend = None if attend is None else attend[:, None, None]  # (B, 1, 1, length)


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
        attention: Attention = SDPA,
    ) -> None:
        super().__init__(model, padding, length, cached=cached, attention=attention)
        self.cached, self.least = cached, max(padding) + 1  # the first column that all rows can predict
        self.left: Tensor | None = None  # (B, 1, d), of the block's first forward
        self.left_of: int | None = None  # the block it predicts the first token of

    def forward(self, ids: Tensor, start: int, block: slice) -> Tensor:
        """See `Session.forward`; a UsageError for a row without any column left of the block."""
        if block.start < self.least:
            raise UsageError(
                "model: predicts every token from the one before it, got an empty prompt; "
                "expected at least one token before the answer"
            )
        hidden = self.feed(ids, start)
        rows = hidden[:, max(block.start - 1 - start, 0) : block.stop - 1 - start]
        if start == block.start:
            assert self.left is not None and self.left_of == block.start, "the block's first forward feeds all columns"
            rows = torch.cat([self.left, rows], 1)
        elif self.cached:
            self.left, self.left_of = rows[:, :1].clone(), block.start  # not a view, which would keep all rows
        return self.logits(rows)

    def keep(self, rows: Tensor) -> None:
        """See `Session.keep`; the next forward feeds the row left of its block anew."""
        super().keep(rows)
        self.left = None


class CausalTransformerSession(TransformerSession):
    """See `CausalSession`: a column attends to itself and to what is left of it."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int) -> None:
        super().__init__(model, padding, length, cached=True)

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """See `CausalSession.forward`."""
        stop = columns.stop - 1
        queries, keys = self.columns[start:stop, None], self.columns[:stop]
        attend = keys <= queries  # (N, stop)
        if self.first is not None:  # padding sees itself: the mean of nothing is NaN in some kernels
            attend = attend & (keys >= self.first[:, None]) | (keys == queries)  # (B, N, stop)
            attend = attend[:, None]
        assert self.store is not None
        cos, sin = self.cos[:, start:stop], self.sin[:, start:stop]
        hidden = self.model.hidden(ids, cos, sin, attend, self.store[:, :, :, :stop], start)
        return self.logits(hidden[:, columns.start - 1 - start :])

    def keep(self, rows: Tensor) -> None:
        """See `CausalSession.keep`."""
        assert self.store is not None
        store = self.store[:, :, rows]
        super().keep(rows)
        self.store = store
