"""Decodes and grades batches on one device: what any executor has at least one of.

It knows nothing of files, of progress, nor of other workers; what it gives back is
recorded by somebody else, perhaps in another process.
"""

from __future__ import annotations

import inspect
import os
import socket
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from l2pd_bench.engine import BatchDecoded, DecodeSettings, decode
from l2pd_bench.errors import BenchError
from l2pd_bench.foreign import ForeignWatch
from l2pd_bench.job import Job
from l2pd_bench.noise import sample_seed
from l2pd_bench.sample_record import sample_record
from l2pd_bench.schema import Alone, Sample, Warmup
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.tasks.base import Item, Task
from l2pd_bench.warmup import compare_alone, warm_up
from l2pd_bench.writer import new_session

NO_SEGMENT = -1  # of samples that are not recorded yet
NO_WARMUP = Warmup(samples=0, rounds=0, seconds=0.0, is_stable=False)  # of a row that failed before its first batch


class Assignment(NamedTuple):
    """What to decode and how: a row of a board. `key` tells it from others, also in another process."""

    key: Hashable
    strategy: Strategy
    task: Task
    settings: DecodeSettings
    batch_size: int


class Turn(NamedTuple):
    """What came of one batch. With an `error` there are no samples, and the row is at its end."""

    samples: list[Sample]  # their segment is for the one who records them
    warmup: Warmup | None = None  # if this was the worker's first batch of the row
    alone: Alone | None = None
    foreign: tuple[str, ...] = ()  # other programs seen on the device
    error: str | None = None


class WorkerName(NamedTuple):
    """Who decoded: a segment of the records begins with every worker."""

    session: str
    pid: int
    hostname: str


class Worker:
    """One process at work on one device, with everything loaded."""

    def __init__(self, job: Job, seed: int) -> None:
        self.job, self._seed = job, seed
        self.name = WorkerName(new_session(), os.getpid(), socket.gethostname())
        self._began = perf_counter()
        self._foreign = ForeignWatch(job.host.device)
        self._warm: set[Hashable] = set()

    def decode(
        self, asked: Assignment, batch: Sequence[Item], references: Callable[[], list[list[int]] | None]
    ) -> Turn:
        """Decode and grade a batch, the first of a row after a warm-up; what a strategy or a task raises is told.

        `references` gives the baseline's decodes of the batch, where the strategy is shown them.
        """
        job, errors = self.job, list[str]()
        ids = [job.prompts[asked.task.name, item.doc_id] for item in batch]
        seeds = [sample_seed(self._seed, item.doc_id) for item in batch]
        turn = Turn([])
        with telling(errors, asked):
            known = references()

            def decode_rows(rows: slice) -> BatchDecoded:
                shown = known and known[rows]
                return decode(job.host, asked.strategy, ids[rows], seeds[rows], asked.settings, shown)

            warmup = alone = None
            if asked.key not in self._warm:
                warmup, warm = warm_up(lambda: decode_rows(slice(None)))
                alone = compare_alone(warm, lambda i: decode_rows(slice(i, i + 1)))
                self._warm.add(asked.key)
            decoded = decode_rows(slice(None))
            samples = self._records(asked, batch, decoded)
            turn = Turn(samples, warmup, alone)
        return turn._replace(foreign=tuple(self._foreign.see()), error=errors[0] if errors else None)

    def foreign(self) -> list[str]:
        """Other programs on the device, looked for now."""
        return self._foreign.see(always=True)

    def _records(self, asked: Assignment, batch: Sequence[Item], decoded: BatchDecoded) -> list[Sample]:
        elapsed_s = perf_counter() - self._began
        job, grader = self.job, self.job.grader
        return [
            sample_record(
                job.host,
                item.doc_id,
                sample,
                decoded,
                stop=asked.task.stop,
                grade=partial(grader.grade, asked.task, item) if grader else None,
                prompt_tokens=len(job.prompts[asked.task.name, item.doc_id]),
                gross=asked.settings.gen_length,
                segment=NO_SEGMENT,
                elapsed_s=elapsed_s,
            )
            for item, sample in zip(batch, decoded.samples, strict=True)
        ]


@contextmanager
def telling(errors: list[str], asked: Assignment) -> Iterator[None]:
    """What a strategy or a task raises is put into `errors`, and ends its row only."""
    try:
        yield
    except BenchError as error:
        errors.append(str(error))
    except Exception as error:  # noqa: BLE001  # a plugin's own bug: it ends its row, with the place, and no other
        errors.append(f"{type(error).__name__}: {error} ({_place(error, asked)})")


def _place(error: BaseException, asked: Assignment) -> str:
    """The last line of the strategy's or the task's own file that an error passed through, else where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = {inspect.getsourcefile(type(asked.strategy)), inspect.getsourcefile(type(asked.task))}
    frame = next((f for f in reversed(frames) if f.filename in own), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}"
