"""What stays on the device from one forward of a `Transformer` to the next, for some rows.

Keys and values by slot and column, rotary tables by position, and what a shifted network
keeps of the column left of a block. It knows nothing of who is in which slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2pd_bench.hosts.transformer import Transformer, rotary_table


class Room:
    """For rows of at most `length` columns; with no `slots` there is no place for keys and values."""

    def __init__(self, model: Transformer, slots: int, length: int) -> None:
        config, weight = model.config, model.embed.weight
        self.slots, self.length = slots, length
        self.columns = torch.arange(length, device=weight.device)
        cos, sin = rotary_table(self.columns, config.head_dim, config.rope_theta)
        self.cos, self.sin = (part.to(model.rope_dtype)[:, None] for part in (cos, sin))  # (L, 1, head_dim)
        self.store: Tensor | None = None
        if slots:  # with one column more, for the keys of columns that a row does not have
            # Zeros, as what a row does not have is weighed with 0, and 0 * NaN would be NaN.
            shape = (config.n_layers, 2, slots, length + 1, config.kv_heads, config.head_dim)
            self.store = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.left: Tensor | None = None  # (slots, 1, d): of a shifted network, the hidden row left of a block
        self.left_of: list[int | None] = [None] * slots

    def clear(self) -> None:
        """As if new."""
        if self.store is not None:
            self.store.zero_()
        self.left_of = [None] * self.slots

    def move(self, source: int, target: int) -> None:
        """Put what is kept in slot `source` into slot `target`."""
        assert self.store is not None
        self.store[:, :, target] = self.store[:, :, source]
        if self.left is not None:
            self.left[target], self.left_of[target] = self.left[source], self.left_of[source]

    def keep_left(self, slot: int, rows: Tensor, blocks: Sequence[int]) -> None:
        """Keep hidden rows (B, 1, d), which stand left of the columns `blocks`, in the slots from `slot` on."""
        if self.left is None:
            self.left = rows.new_zeros(self.slots, *rows.shape[1:])
        here = slice(slot, slot + len(rows))
        self.left[here], self.left_of[here] = rows, list(blocks)
