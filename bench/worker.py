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
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.engine import decode
from l2pd_bench.errors import BenchError
from l2pd_bench.foreign import ForeignWatch
from l2pd_bench.job import Job
from l2pd_bench.memory import free, is_out_of_memory
from l2pd_bench.noise import sample_seed
from l2pd_bench.sample_record import oom_record, sample_record
from l2pd_bench.schema import Alone, Sample, Warmup
from l2pd_bench.stopping import Overtime, at_most, check_limit
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
    """What came of one batch. With an `error` there are no samples, and the row is at its end.

    A worker that was stopped gives the first samples of the batch, perhaps none.
    """

    samples: list[Sample]  # their segment is for the one who records them
    warmup: Warmup | None = None  # if this was the worker's first batch of the row
    alone: Alone | None = None
    foreign: tuple[str, ...] = ()  # other programs seen on the device
    error: str | None = None
    notes: tuple[str, ...] = ()  # what went wrong without ending the row


class _Warmed(NamedTuple):
    warmup: Warmup
    alone: Alone | None


class _NotBegun(Exception):  # no error: somebody asked for the end
    """A decode that was not begun, as the worker was stopped."""


_DecodeRows = Callable[[range, int], BatchDecoded]  # of some rows of a batch, so many at a time


class WorkerName(NamedTuple):
    """Who decoded: a segment of the records begins with every worker."""

    session: str
    pid: int
    hostname: str


class Worker:
    """One process at work on one device, with everything loaded."""

    def __init__(self, job: Job, seed: int, timeout: float | None = None) -> None:
        """`timeout`: seconds that one decode may take, kept in the main thread only (UsageError elsewhere)."""
        check_limit(timeout)
        self.job, self._seed, self._timeout = job, seed, timeout
        self.name = WorkerName(new_session(), os.getpid(), socket.gethostname())
        self._began = perf_counter()
        self._foreign = ForeignWatch(job.host.device)
        self._warm: set[Hashable] = set()
        self._fits: dict[Hashable, int] = {}  # how many at once, for rows that have run out of memory
        self._stopping = False

    def stop(self) -> None:
        """Begin no further decode: what is under way is finished. May be called from a signal handler."""
        self._stopping = True

    def decode(
        self, asked: Assignment, batch: Sequence[Item], references: Callable[[], list[list[int]] | None]
    ) -> Turn:
        """Decode and grade some items, the first of a row after a warm-up; what a strategy or a task raises is told.

        As many at a time as the batch size says. Where the memory does not suffice, the same
        items are decoded half as many at a time, after a warm-up of that size; one that does
        not fit alone is recorded as such, and counts as wrong. A MemoryError, which is
        Python's and not the device's, out of the strategy's own file ends the row as any bug.
        What torch lacks there is taken for the batch's, whose size it goes by: that it was
        asked for by mistake cannot be told, so the record says in which line. `references`
        gives the baseline's decodes of the batch, where the strategy is shown them.
        """
        errors, turn = list[str](), Turn([])
        with telling(errors, asked):
            decode_rows = self._decoder(asked, batch, references())
            while (at := len(turn.samples)) < len(batch):
                slots = min(self._fits.get(asked.key, asked.batch_size), len(batch) - at)
                rows = range(at, len(batch) if slots > 1 else at + 1)
                lacking = None
                try:
                    if asked.key not in self._warm:
                        turn = turn._replace(**self._warm_up(decode_rows, rows[:slots])._asdict())
                        self._warm.add(asked.key)
                    decoded = decode_rows(rows, slots)
                except _NotBegun:
                    break
                except (MemoryError, RuntimeError) as error:
                    own = _own_place(error, asked)
                    if not is_out_of_memory(error) or (own and isinstance(error, MemoryError)):
                        raise
                    lacking = str(error).partition("\n")[0] or type(error).__name__
                    lacking += f" ({own})" if own else ""
                if lacking is None:
                    done = self._records(asked, batch[rows.start : rows.start + len(decoded.samples)], decoded)
                    turn = turn._replace(samples=[*turn.samples, *done])
                else:  # the exception is gone by now, and what it held
                    turn = self._smaller(turn, asked, batch[at], slots, lacking)
        if errors:
            turn = Turn([], error=errors[0], notes=turn.notes)
        return turn._replace(foreign=tuple(self._foreign.see()))

    def _decoder(self, asked: Assignment, batch: Sequence[Item], known: list[list[int]] | None) -> _DecodeRows:
        """What decodes some rows of a batch, unless the worker was stopped."""
        ids = [self.job.prompts[asked.task.name, item.doc_id] for item in batch]
        seeds = [sample_seed(self._seed, item.doc_id) for item in batch]

        def decode_rows(which: range, slots: int) -> BatchDecoded:
            if self._stopping:
                raise _NotBegun
            rows = slice(which.start, which.stop)
            doing = f"{asked.strategy.name} on {asked.task.name}, {batch[which.start].doc_id}"
            call = partial(
                decode,
                self.job.host,
                asked.strategy,
                ids[rows],
                seeds[rows],
                asked.settings,
                known and known[rows],
                slots=slots,
                goes_on=lambda: not self._stopping,
            )
            return at_most(self._timeout, doing, call)

        return decode_rows

    def _warm_up(self, decode_rows: _DecodeRows, rows: range) -> _Warmed:
        warmup, warm = warm_up(lambda: decode_rows(rows, len(rows)))
        return _Warmed(warmup, compare_alone(warm, lambda i: decode_rows(rows[i : i + 1], 1)))

    def _smaller(self, turn: Turn, asked: Assignment, first: Item, slots: int, lacking: str) -> Turn:
        """After rows that did not fit: fewer at a time from now on, or, where it was one, its record."""
        free(self.job.host.device)
        notes = list(dict.fromkeys([*turn.notes, f"out of memory at a batch of {slots}"]))
        turn = turn._replace(notes=tuple(notes))
        if slots > 1:
            self._fits[asked.key] = slots // 2
            self._warm.discard(asked.key)  # at this size nothing was decoded yet
            return turn
        prompt_tokens = len(self.job.prompts[asked.task.name, first.doc_id])
        failed = oom_record(first.doc_id, lacking, prompt_tokens, NO_SEGMENT, perf_counter() - self._began)
        return turn._replace(samples=[*turn.samples, failed])

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
    except Overtime as late:
        errors.append(f"a decode took longer than --timeout allows ({_place(late, asked)}); mend that, or allow more")
    except BenchError as error:
        errors.append(str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin's own bug: it ends its row, with the place, and no other
        errors.append(f"{type(error).__name__}: {error} ({_place(error, asked)})")


def _place(error: BaseException, asked: Assignment) -> str:
    """The last line of the strategy's or the task's own file that an error passed through, else where it was raised."""
    raised = -2 if isinstance(error, Overtime) else -1  # below the line that was interrupted is the signal's handler
    return _own_place(error, asked) or _line(traceback.extract_tb(error.__traceback__)[raised])


def _own_place(error: BaseException, asked: Assignment) -> str | None:
    """That line, if the error passed through such a file; also one of a strategy that it is derived from."""
    kinds = [*takewhile(lambda kind: kind is not Strategy, type(asked.strategy).__mro__), type(asked.task)]
    own = {inspect.getsourcefile(kind) for kind in kinds if kind.__module__ != "builtins"}
    frames = traceback.extract_tb(error.__traceback__)
    return next((_line(frame) for frame in reversed(frames) if frame.filename in own), None)


def _line(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}, line {frame.lineno}"
