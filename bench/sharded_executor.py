"""Hands the batches of a run to a crew of workers elsewhere, and gives back what came of them.

What is lost with a worker is the batch that it was at; the rest of its chunk goes to
another. A worker of another kind than the run's takes no part. It does not know how
workers come about and are called (`ray_executor.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import copy
from itertools import islice
from time import monotonic
from typing import NamedTuple, Protocol

from l2pd_bench.cells import Cell
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.executor import Done
from l2pd_bench.job import Agenda
from l2pd_bench.remote import Introduction, Report
from l2pd_bench.shards import MOST_DEATHS, Batch, Chunk, Shards
from l2pd_bench.tasks.base import Item
from l2pd_bench.worker import Turn, WorkerName

TICK_S = 1.0
GONE_S = 120.0  # how long to wait for a worker when there is none
TELL_S = 15.0  # how often to say so


class Member(NamedTuple):
    """A worker: which of them, and where."""

    number: int
    hostname: str

    def __str__(self) -> str:
        return f"{self.number} on {self.hostname}"


class Joined(NamedTuple):
    """A worker is ready."""

    member: Member
    introduction: Introduction


class Answered(NamedTuple):
    """A worker has done what it was asked."""

    member: Member
    turn: Turn


class Lost(NamedTuple):
    """A worker died, or could not begin."""

    member: Member
    why: str
    error: BenchError | None = None  # if it is the user's to mend


Event = Joined | Answered | Lost


class Crew(Protocol):
    """Workers, and the way to them."""

    def poll(self, timeout_s: float) -> list[Event]:
        """What happened, once something has; nothing if nothing did for so long."""
        ...

    def starting(self) -> int:
        """How many workers have a device, and are not ready yet."""
        ...

    def ask(self, member: Member, key: Hashable, doc_ids: Sequence[str], references: list[list[int]] | None) -> None:
        """Have a ready worker decode a batch; what came of it is an event."""
        ...

    def refuse(self, member: Member) -> None:
        """Do without a worker, and do not replace it."""
        ...

    def foreign(self, member: Member) -> list[str]:
        """Other programs on a ready worker's device."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class _At(NamedTuple):
    """What a worker is at."""

    chunk: Chunk
    batch: Batch


def gather(crew: Crew, tell: Callable[[str], None]) -> dict[Member, Introduction]:
    """The workers that are ready, once no other is starting; a BenchError if there is none."""
    found: dict[Member, Introduction] = {}
    lost: list[Lost] = []
    patience = _Patience(tell)
    while not found or crew.starting():
        for event in crew.poll(TICK_S):
            if isinstance(event, Joined):
                found[event.member] = event.introduction
            elif isinstance(event, Lost):
                lost.append(event)
        if not found and not crew.starting():
            if lost:
                raise lost[0].error or BenchError(f"executor: no worker could begin: {lost[0].why}")
            patience.wait("no device of the cluster is free")
        else:
            patience.renew()
    for event in lost:
        tell(f"worker {event.member}: {event.why}")
    return found


def commonest(found: dict[Member, Introduction]) -> Report:
    """The report that most workers agree on; of equally many, always the same."""
    counts = Counter(introduction.report.kind for introduction in found.values())
    kind = min(counts, key=lambda kind: (-counts[kind], kind))
    return next(i.report for i in found.values() if i.report.kind == kind)


class ShardedExecutor:
    """See `executor.Executor`."""

    def __init__(
        self,
        crew: Crew,
        agenda: Agenda,
        expected: Report,
        members: dict[Member, Introduction],
        tell: Callable[[str], None],
    ) -> None:
        self.agenda = agenda
        self._crew, self._expected, self._tell = crew, expected, tell
        self._names: dict[Member, WorkerName] = {}
        self._at: dict[Member, _At] = {}
        self._stopping = False
        for member, introduction in members.items():
            self._join(member, introduction)

    def run(self, cells: Sequence[Cell], items: Sequence[Item]) -> Iterator[Done]:
        """See `Executor.run`. One batch at a time for each worker, which has the next while the last is recorded.

        Where a row goes by the decodes of another, these are recorded first.
        """
        shards = Shards(cells, items)
        is_ahead = all(cell.reference is None for cell in cells)
        patience = _Patience(self._tell)
        while True:
            for member in [member for member in self._names if member not in self._at]:
                yield from self._feed(member, shards)
            if not self._at and (self._names or self._stopping):
                return
            if self._names:
                patience.renew()
            elif not self._crew.starting():
                patience.wait("all workers are gone")
            for event in self._crew.poll(TICK_S):
                if isinstance(event, Joined):
                    self._join(event.member, event.introduction)
                elif isinstance(event, Answered):
                    chunk, (cell, batch) = self._at.pop(event.member)
                    if is_ahead:
                        yield from self._feed(event.member, shards, chunk)
                    yield Done(cell, batch, self._names[event.member], event.turn)
                    if not is_ahead:
                        yield from self._feed(event.member, shards, chunk)
                else:
                    yield from self._bury(event, shards)

    def stop(self) -> str:
        """See `Executor.stop`."""
        self._stopping = True
        told = [
            f"{cell.writer.manifest.strategy.spec} on {cell.asked.task.name}, {items[0].doc_id}"
            for _, (cell, items) in self._at.values()
        ]
        return "; ".join(told) or "nothing"

    def foreign(self) -> list[tuple[WorkerName, list[str]]]:
        """See `Executor.foreign`."""
        return [(name, self._crew.foreign(member)) for member, name in self._names.items()]

    def close(self) -> None:
        """See `Executor.close`."""
        self._crew.close()

    def first(self, count: int) -> ShardedExecutor:
        """The same with the first so many of its workers; BenchError if it has fewer."""
        if count > len(self._names):
            raise BenchError(f"executor: got {len(self._names)} workers that are ready, expected {count}; try again")
        fewer = copy(self)
        fewer._names, fewer._at = dict(islice(self._names.items(), count)), {}
        return fewer

    def _feed(self, member: Member, shards: Shards, chunk: Chunk | None = None) -> Iterator[Done]:
        """Ask a worker for the next batch of its chunk, or of a new one; those of failed rows are given as such."""
        while not self._stopping and (chunk := chunk or shards.take(len(self._names))) is not None:
            batch = chunk.next()
            if batch is None:
                chunk = None
                continue
            cell, items = batch
            turn = None
            if cell.failed is None:
                try:
                    references = cell.references(items)
                    self._at[member] = _At(chunk, batch)
                    self._crew.ask(member, cell.asked.key, [item.doc_id for item in items], references)
                    return
                except UsageError as error:  # the baseline has failed
                    turn = Turn([], error=str(error))
            yield Done(cell, items, self._names[member], turn)

    def _join(self, member: Member, introduction: Introduction) -> None:
        if faults := introduction.report.faults(self._expected):
            self._tell(f"worker {member} takes no part, as it is not like the others ({'; '.join(faults)})")
            self._crew.refuse(member)
            return
        self._names[member] = introduction.name

    def _bury(self, lost: Lost, shards: Shards) -> Iterator[Done]:
        """Go on without a worker; a batch that has cost several of them fails its row."""
        self._tell(f"worker {lost.member}: {lost.why}")
        name, at = self._names.pop(lost.member, None), self._at.pop(lost.member, None)
        if name is None or at is None:
            return
        cell, items = at.batch
        if shards.give_back(at.chunk, at.batch) and cell.failed is None:
            spec, first = cell.writer.manifest.strategy.spec, items[0].doc_id
            error = f"{MOST_DEATHS} workers died, one after the other, while '{spec}' decoded {first} ({lost.why})"
            yield Done(cell, items, name, Turn([], error=error))


class _Patience:
    """Waits for a worker where there is none, but not for ever."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.renew()

    def renew(self) -> None:
        self._since = self._told = monotonic()

    def wait(self, why: str) -> None:
        """Raise BenchError after too long; say what is waited for now and then."""
        now = monotonic()
        if now - self._since > GONE_S:
            raise BenchError(
                f"executor: {why}, and none came for {GONE_S:g} s; what is recorded is kept: start nodes, and repeat "
                "the command to continue"
            )
        if now - self._told > TELL_S:
            self._told = now
            self._tell(f"{why}; waiting {GONE_S - (now - self._since):.0f} s more for one")
