"""Who decodes the batches of a run: here, one worker in this process.

An executor hands out batches and gives back what came of them, in any order; the runner
records it. Executors on other machines have the same interface (`ray_executor.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from l2pd_bench.cells import Cell, turns
from l2pd_bench.job import Job
from l2pd_bench.tasks.base import Item
from l2pd_bench.worker import Turn, Worker, WorkerName


class Done(NamedTuple):
    """One batch of a cell, and what came of it; None if it was not begun, as the cell had failed."""

    cell: Cell
    batch: Sequence[Item]
    worker: WorkerName
    turn: Turn | None


class Executor(Protocol):
    """Decodes what is left of some cells, one task's at a time."""

    def run(self, cells: Sequence[Cell], items: Sequence[Item]) -> Iterator[Done]:
        """The batches of `cells`, each once it is decoded. What is given is recorded before the next is asked for."""
        ...

    def stop(self) -> str:
        """Begin no further batch, and say which are under way. `run` ends once these are given; some may be short.

        May be called from a signal handler: it takes no lock.
        """
        ...

    def foreign(self) -> list[tuple[WorkerName, list[str]]]:
        """Other programs on the device of each worker, looked for now."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class LocalExecutor:
    """One worker in this process: all cells of a task take turns, so that a drift of the machine hits all alike."""

    def __init__(self, job: Job, seed: int, timeout: float | None = None) -> None:
        """`timeout`: see `Worker`."""
        self.worker = Worker(job, seed, timeout)
        self._under_way = "nothing"
        self._stopping = False

    def run(self, cells: Sequence[Cell], items: Sequence[Item]) -> Iterator[Done]:
        """See `Executor.run`."""
        for cell, batch in turns(cells, items):
            if self._stopping:
                return
            turn = None
            if cell.failed is None:
                self._under_way = f"{cell.writer.manifest.strategy.spec} on {cell.asked.task.name}, {batch[0].doc_id}"
                turn = self.worker.decode(cell.asked, batch, partial(cell.references, batch))
            yield Done(cell, batch, self.worker.name, turn)

    def stop(self) -> str:
        """See `Executor.stop`."""
        self._stopping = True
        self.worker.stop()
        return self._under_way

    def foreign(self) -> list[tuple[WorkerName, list[str]]]:
        """See `Executor.foreign`."""
        return [(self.worker.name, self.worker.foreign())]

    def close(self) -> None:
        """Nothing is held."""
