"""The rows that a run decodes: every strategy on every task under every setting, each under its protocol.

Computed alike wherever it is asked, so that a row is known by its key also in another process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from l2pd_bench.job import Agenda, wanted_of
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import Protocol, protocol_of
from l2pd_bench.registry import StrategySpec
from l2pd_bench.seal import run_id
from l2pd_bench.worker import Assignment


class Row(NamedTuple):
    """What to decode, and what it is recorded as."""

    asked: Assignment
    spec: StrategySpec
    protocol: Protocol

    @property
    def run_id(self) -> str:
        """See `seal.run_id`."""
        return run_id(self.protocol.hash, self.spec.spec, self.spec.code_hash)


def rows_of(plan: Plan, agenda: Agenda) -> Iterator[Row]:
    """The rows of a plan, task by task."""
    for task in agenda.tasks:
        for i, (strategy, spec, settings, size) in enumerate(wanted_of(plan, task, agenda.strategies)):
            protocol = protocol_of(
                agenda.facts, task, settings, frontier=strategy.frontier(), seed=plan.seed, batch_size=size
            )
            yield Row(Assignment((task.name, i), strategy, task, settings, size), spec, protocol)
