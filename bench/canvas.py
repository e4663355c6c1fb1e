"""The canvas: prompts and the masks to be filled, for a batch of prompts of any length.

Prompts are padded on the left, so that every row's generation region, and therefore
every block, stands in the same columns. The canvas knows nothing of models or rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PAD = -1  # no token: what stands in the columns left of a shorter prompt


class Canvas:
    """`ids` (B, L) int64 on the device; the generation region is columns [start, L).

    `rows` are the places of the rows in the batch that was opened, as rows may be dropped.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        gen_length: int,
        mask_id: int,
        device: torch.device,
    ) -> None:
        self.start = max(len(p) for p in prompts)
        self.length = self.start + gen_length
        self.rows = list(range(len(prompts)))
        self.padding = [self.start - len(p) for p in prompts]
        columns = [[PAD] * pad + [*p] + [mask_id] * gen_length for pad, p in zip(self.padding, prompts, strict=True)]
        self.ids = torch.tensor(columns, device=device)
        self.seeds = torch.tensor(list(seeds), device=device)

    def blocks(self, block_length: int) -> Iterator[slice]:
        """The blocks' columns, left to right."""
        for at in range(self.start, self.length, block_length):
            yield slice(at, at + block_length)

    def keep(self, places: Sequence[int]) -> Tensor:
        """Drop all rows but those at `places`; returns the index tensor."""
        index = torch.tensor(list(places), device=self.ids.device)
        self.ids, self.seeds = self.ids[index], self.seeds[index]
        self.rows = [self.rows[i] for i in places]
        self.padding = [self.padding[i] for i in places]
        return index
