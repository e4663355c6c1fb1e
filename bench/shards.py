"""Cuts the items of a task into chunks for several workers, and takes back what a dead one leaves.

A chunk belongs to one worker for all cells, so that an item's strategies are timed in one
process, in turns. What is recorded is no longer handed out. It knows nothing of processes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from math import lcm
from typing import NamedTuple

from l2pd_bench.cells import Cell, turns
from l2pd_bench.schema import turn_of
from l2pd_bench.tasks.base import Item

MOST_DEATHS = 3  # of workers at one batch, after which the batch is to blame


class Batch(NamedTuple):
    """What one worker decodes at once."""

    cell: Cell
    items: Sequence[Item]

    @property
    def key(self) -> Hashable:
        """Tells it from other batches."""
        return self.cell.asked.key, tuple(item.doc_id for item in self.items)


class Chunk:
    """Some items, and what is left of them to decode."""

    def __init__(self, number: int, cells: Sequence[Cell], items: Sequence[Item]) -> None:
        self.items = items
        at = number % len(cells)  # another cell is first in every chunk
        self._turns: Iterator[tuple[Cell, Sequence[Item]]] = turns([*cells[at:], *cells[:at]], items)

    def next(self) -> Batch | None:
        """The next batch, once the one before is recorded; None at the end."""
        return next((Batch(*turn) for turn in self._turns), None)


class Shards:
    """The items of a task that some cell still lacks."""

    def __init__(self, cells: Sequence[Cell], items: Sequence[Item]) -> None:
        self._cells = cells
        self._left = deque(item for item in items if any(item.doc_id not in cell.writer.done for cell in cells))
        self._back: deque[Sequence[Item]] = deque()
        self._unit = lcm(*(turn_of(cell.asked.batch_size) for cell in cells))
        self._taken = 0
        self._deaths: Counter[Hashable] = Counter()

    def take(self, workers: int) -> Chunk | None:
        """The next chunk, where so many share the work; None if there is none now.

        In turns all cells are first equally often in a chunk of as many batches as there are
        cells; towards the end chunks are smaller, so that all workers end at about one time.
        """
        if self._back:
            items = self._back.popleft()
        else:
            fair = len(self._left) // (2 * workers * self._unit)
            size = self._unit * max(1, min(len(self._cells), fair))
            items = [self._left.popleft() for _ in range(min(size, len(self._left)))]
        if not items:
            return None
        self._taken += 1
        return Chunk(self._taken - 1, self._cells, items)

    def give_back(self, chunk: Chunk, during: Batch) -> bool:
        """What a worker left that died over a batch, for the next one; whether the batch is to blame by now."""
        self._back.append(chunk.items)
        self._deaths[during.key] += 1
        return self._deaths[during.key] >= MOST_DEATHS
