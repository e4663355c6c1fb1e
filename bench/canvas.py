"""The canvas: prompts and the masks to be filled, for a batch of prompts of any length.

Prompts are padded on the left, so that every row's generation region, and therefore
every block, stands in the same columns. The canvas knows nothing of models or rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PAD = -1  # no token: what stands in the columns left of a shorter prompt, and behind an end


class Canvas:
    """`ids` (B, L) int64 on the device; the generation region is columns [start, L).

    `rows` are the places of the rows in the batch that was opened, as rows may be dropped.
    `ends` (B,) int64 are the columns behind each row's last, which `cut` may lower;
    `lengths` are the same on the host, as last told to `trim`, and `length` their maximum.
    `reference` (B, gen_length) int64 is a decode to be shown to an oracle.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        gen_length: int,
        mask_id: int,
        device: torch.device,
        reference: Tensor | None = None,
    ) -> None:
        self.start = max(len(p) for p in prompts)
        self.length = self.start + gen_length
        self.rows = list(range(len(prompts)))
        self.padding = [self.start - len(p) for p in prompts]
        columns = [[PAD] * pad + [*p] + [mask_id] * gen_length for pad, p in zip(self.padding, prompts, strict=True)]
        self.ids = torch.tensor(columns, device=device)
        self.seeds = torch.tensor(list(seeds), device=device)
        self.lengths = [self.length] * len(prompts)
        self.ends = torch.tensor(self.lengths, device=device)
        self.reference = reference

    def cut(self, ends: Tensor) -> None:
        """End each row before column `ends` (B,) int64, unless it ends earlier."""
        self.ends = torch.minimum(self.ends, ends)
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        self.ids.masked_fill_(columns >= self.ends[:, None], PAD)

    def trim(self, lengths: Sequence[int]) -> bool:
        """Take note of the rows' ends as read; drops the columns no row has. Returns whether anything changed."""
        changed = self.lengths != [*lengths]
        self.lengths, self.length = [*lengths], max(lengths)
        self.ids = self.ids[:, : self.length]
        return changed

    def keep(self, places: Sequence[int]) -> Tensor:
        """Drop all rows but those at `places`; returns the index tensor."""
        index = torch.tensor(list(places), device=self.ids.device)
        self.ids, self.seeds, self.ends = self.ids[index], self.seeds[index], self.ends[index]
        self.reference = None if self.reference is None else self.reference[index]
        self.trim([self.lengths[i] for i in places])
        self.rows = [self.rows[i] for i in places]
        self.padding = [self.padding[i] for i in places]
        return index
