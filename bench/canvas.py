"""The canvas: prompts and the masks to be filled, for any number of prompts of any length.

Prompts are padded on the left, so that every row's generation region, and therefore
every block, stands in the same columns. The canvas knows nothing of models or rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PAD = -1  # no token: what stands in the columns left of a shorter prompt, and behind an end


class Canvas:
    """`ids` (P, L) int64 on the device; the generation region is columns [start, L).

    `ends` (P,) int64 are the columns behind each row's last, which `cut` may lower.
    `reference` (P, gen_length) int64 are decodes to be shown to an oracle.
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
        self.padding = [self.start - len(p) for p in prompts]
        columns = [[PAD] * pad + [*p] + [mask_id] * gen_length for pad, p in zip(self.padding, prompts, strict=True)]
        self.ids = torch.tensor(columns, device=device)
        self.seeds = torch.tensor(list(seeds), device=device)
        self.ends = torch.full((len(prompts),), self.length, device=device)
        self.reference = reference
        self._every = list(range(len(prompts)))

    def cut(self, ends: Tensor) -> None:
        """End each row before column `ends` (P,) int64, unless it ends earlier."""
        self.ends = torch.minimum(self.ends, ends)
        columns = torch.arange(self.length, device=self.ids.device)
        self.ids.masked_fill_(columns >= self.ends[:, None], PAD)

    def take(self, places: Sequence[int]) -> Canvas:
        """The rows at `places`, as a canvas of their own: of all rows, this one itself."""
        if list(places) == self._every:
            return self
        index = torch.tensor(list(places), device=self.ids.device)
        part = Canvas.__new__(Canvas)
        part.start, part.length, part.padding = self.start, self.length, [self.padding[i] for i in places]
        part.ids, part.seeds, part.ends = self.ids[index], self.seeds[index], self.ends[index]
        part.reference = None if self.reference is None else self.reference[index]
        part._every = list(range(len(places)))
        return part

    def put(self, places: Sequence[int], part: Canvas) -> None:
        """Write what `take` gave, and was changed since, back into its rows."""
        if part is not self:
            index = torch.tensor(list(places), device=self.ids.device)
            self.ids[index], self.ends[index] = part.ids, part.ends

    def columns(self, starts: Sequence[int], n: int) -> Tensor:
        """`n` columns of each row from its own of `starts` on, (B, n): a view where these are all the same.

        There is `PAD` in those behind the canvas.
        """
        if len(set(starts)) == 1:
            return self.ids[:, starts[0] : starts[0] + n]
        index = self._index(starts, n)
        found = self.ids.gather(1, index.clamp(max=self.length - 1))
        return found.masked_fill(index >= self.length, PAD) if max(starts) + n > self.length else found

    def put_columns(self, starts: Sequence[int], ids: Tensor) -> None:
        """Write columns (B, n) back to where `columns` took them from."""
        if len(set(starts)) == 1:
            self.ids[:, starts[0] : starts[0] + ids.shape[1]] = ids
        else:
            self.ids.scatter_(1, self._index(starts, ids.shape[1]), ids)

    def _index(self, starts: Sequence[int], n: int) -> Tensor:
        first = torch.tensor(list(starts), device=self.ids.device)[:, None]
        return first + torch.arange(n, device=self.ids.device)
