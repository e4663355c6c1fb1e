"""The cells of a run, one strategy under one setting each, and the order in which their batches take turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from l2pd_bench.errors import UsageError
from l2pd_bench.schema import turn_of
from l2pd_bench.tasks.base import Item
from l2pd_bench.trace import TraceFile
from l2pd_bench.worker import Assignment
from l2pd_bench.writer import RunWriter


@dataclass
class Cell:
    """One strategy on one task under one setting: a row of a board, a folder of records."""

    asked: Assignment
    writer: RunWriter
    traces: TraceFile | None = None  # where steps are written down, if they are
    reference: Cell | None = None  # the baseline's, if the strategy is shown its decode
    segments: dict[str, int] = field(default_factory=dict)  # those begun by now, by the session of their worker
    failed: str | None = None
    failed_in: int | None = None  # the segment that ended it

    def done(self, items: Sequence[Item]) -> set[str]:
        """The doc_ids among `items` that are recorded."""
        return self.writer.done & {item.doc_id for item in items}

    def references(self, batch: Sequence[Item]) -> list[list[int]] | None:
        """The baseline's decodes of a batch, where the strategy is shown them; UsageError if one is missing."""
        if self.reference is None:
            return None
        writer = self.reference.writer
        if missing := [item.doc_id for item in batch if item.doc_id not in writer.done]:
            entry = writer.samples.entries.get(missing[0])
            if entry is not None and entry.status == "oom":
                raise UsageError(
                    f"no decode of fixed-step to go by for {missing[0]}, as that ran out of memory there; free some, "
                    "or make the model smaller with --dtype, and repeat: it is tried again, and this row goes on"
                )
            raise UsageError("no decode of fixed-step to go by, as that failed in the same setting; mend it and repeat")
        return [writer.samples[item.doc_id].output_ids for item in batch]

    def waits(self, batch: Sequence[Item]) -> bool:
        """Whether a batch has no reference decode yet that might still come."""
        if self.reference is None or self.reference.failed is not None:
            return False
        return len(self.reference.done(batch)) < len(batch)


def find_references(cells: Sequence[Cell]) -> None:
    """Give every cell whose strategy is shown the baseline's decode the cell of that."""
    baselines = {c.writer.manifest.protocol_hash: c for c in cells if c.writer.manifest.strategy.is_baseline}
    for cell in cells:
        if cell.asked.strategy.uses_reference:
            cell.reference = baselines[cell.writer.manifest.protocol_hash]


def turns(cells: Sequence[Cell], items: Sequence[Item]) -> Iterator[tuple[Cell, Sequence[Item]]]:
    """The batches of all cells, each cell's spread evenly over the whole, equals in rotating order.

    A batch that needs a reference decode is put off until that is recorded.
    """
    turns = []
    for place, cell in enumerate(cells):
        left = [item for item in items if item.doc_id not in cell.writer.done]
        batches = list(_chunks(left, turn_of(cell.asked.batch_size)))
        for i, batch in enumerate(batches):
            turns.append(((i + 0.5) / len(batches), (place - i) % len(cells), place, batch))
    waiting: list[tuple[Cell, Sequence[Item]]] = []
    for _, _, place, batch in sorted(turns, key=lambda turn: turn[:3]):
        waiting.append((cells[place], batch))
        for turn in [turn for turn in waiting if not turn[0].waits(turn[1])]:
            waiting.remove(turn)
            yield turn
    # What waits now has a reference that did not come, and ends its row: it comes after all that can be decoded.
    yield from sorted(waiting, key=lambda turn: turn[0].waits(turn[1]))


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
