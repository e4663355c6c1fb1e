"""A worker in a process of its own, perhaps on another machine: what it tells of itself, and what it is asked.

It makes everything from the plan, so that neither model nor strategies travel. Whether it
may contribute is decided by comparing reports: rows are never mixed. Knows nothing of how
calls get from one process to the other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from l2pd_bench.errors import UsageError
from l2pd_bench.job import Agenda, prepare_job
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import HostFacts
from l2pd_bench.rows import rows_of
from l2pd_bench.worker import Assignment, Turn, Worker, WorkerName

OF_THE_NODE = ("hostname", "platform", "memory_bytes", "cores", "gpus")  # may differ within a row


class Report(NamedTuple):
    """What a worker, or the process that hands out, has found when it made what the plan names."""

    facts: HostFacts
    machine: dict[str, Any]
    source: str  # hash of the harness's own code
    rows: tuple[str, ...]  # run ids: strategies with their code, tasks with their data, settings

    def faults(self, expected: Report) -> list[str]:
        """Why what this one decodes does not belong into the rows of `expected`; none if it does."""
        ours, theirs = self._comparable(), expected._comparable()
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        told = [f"{name}: got {ours.get(name)}, expected {theirs.get(name)}" for name in names]
        if not told and self.rows != expected.rows:
            told = ["strategies, tasks or their data are not the same there"]
        return told

    @property
    def kind(self) -> str:
        """Equal for workers that may share their rows."""
        return repr((sorted(self._comparable().items()), self.rows))

    def _comparable(self) -> dict[str, Any]:
        """What must be equal. Which processor, only where it is what decodes."""
        free = OF_THE_NODE if self.facts.device == "cpu" else (*OF_THE_NODE, "cpu")
        machine = {name: value for name, value in self.machine.items() if name not in free}
        return {"l2pd-bench's code": self.source[:12], **self.facts._asdict(), **machine}


def report_of(plan: Plan, agenda: Agenda) -> Report:
    """What this process has found."""
    return Report(agenda.facts, agenda.machine, source_hash(), tuple(row.run_id for row in rows_of(plan, agenda)))


def source_hash() -> str:
    """Of the Python files that decode and record: an equal version may still be another checkout."""
    digest = hashlib.sha256()
    for folder in ("l2pd_bench", *(f"l2pd_bench.{name}" for name in ("hosts", "strategies", "tasks"))):
        for path in sorted((p for p in files(folder).iterdir() if p.name.endswith(".py")), key=lambda p: p.name):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


class Introduction(NamedTuple):
    """What a worker says when it is ready."""

    name: WorkerName
    report: Report


class RemoteWorker:
    """Decodes batches by the keys of their rows and the ids of their items."""

    def arrive(self) -> None:
        """Answers once there is a process."""

    def prepare(self, plan: Plan, folder: str) -> Introduction:
        """Load everything, on one torch thread; `folder` is what the plan's relative paths start from."""
        import torch

        torch.set_num_threads(1)  # workers share a machine, and a thread too many slows all of them
        if Path(folder).is_dir():  # else a relative path is not found, which is told by who reads it
            os.chdir(folder)
        job = prepare_job(plan)
        agenda = job.agenda()
        self._worker = Worker(job, plan.seed, plan.timeout)
        self._asked: dict[Hashable, Assignment] = {row.asked.key: row.asked for row in rows_of(plan, agenda)}
        self._items = {(task, item.doc_id): item for task, items in job.items.items() for item in items}
        return Introduction(self._worker.name, report_of(plan, agenda))

    def decode(self, key: Hashable, doc_ids: Sequence[str], references: list[list[int]] | None) -> Turn:
        """A batch of a row; `references` are the baseline's decodes, where the strategy is shown them."""
        asked = self._asked[key]
        return self._worker.decode(asked, [self._items[asked.task.name, i] for i in doc_ids], lambda: references)

    def foreign(self) -> list[str]:
        """Other programs on its device."""
        return self._worker.foreign()


def check_here(plan: Plan, agenda: Agenda, theirs: Report) -> Report:
    """The report that workers must agree with; UsageError if this process and `theirs` have other code or data."""
    ours = report_of(plan, agenda)
    if faults := theirs.faults(ours):
        raise UsageError(
            f"executor: the workers are not what this process is ({'; '.join(faults)}); give all nodes and this one "
            "the same l2pd-bench, strategies and data"
        )
    return ours
