"""`run --aa`: one strategy against itself, which must come out equally fast.

A self-test of machine and method: two copies take turns exactly as two strategies of a
run do, and the interval of their speedup is computed as a board's is. If it does not hold
1, nothing this machine says about speed is to be believed. Nothing is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

from l2pd_bench import stats
from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.job import prepare_job, wanted_of
from l2pd_bench.noise import sample_seed
from l2pd_bench.plan import Plan
from l2pd_bench.warmup import warm_up

FEWEST_BATCHES = 10


@dataclass(frozen=True)
class SelfTest:
    """Decode seconds of the first copy over those of the second, batch by batch."""

    strategy: str
    task: str
    pairs: list[tuple[float, float]]

    @property
    def speedup(self) -> float:
        """The ratio of sums."""
        return stats.ratio(self.pairs) or 0.0

    @property
    def interval(self) -> stats.Interval:
        """Its 95 % interval."""
        found = stats.bootstrap_ratio(self.pairs)
        if found is None:
            raise UsageError("aa: got no time that can be measured, expected decodes that take some; take more items")
        return found

    @property
    def ok(self) -> bool:
        """Whether the interval holds 1."""
        return self.interval.low <= 1 <= self.interval.high

    @property
    def message(self) -> str:
        """What came out, in a line."""
        low, high = self.interval
        told = f"{self.strategy} against itself on {self.task}, {len(self.pairs)} batches in turns: "
        told += f"speedup {self.speedup:.3f}x (95 %: {low:.3f} to {high:.3f})"
        if self.ok:
            return f"{told}, which holds 1: no difference where there is none"
        return f"{told}, which does not hold 1: the machine is too unsteady, or this is one try in twenty"


def self_test(plan: Plan, console: Console | None = None) -> SelfTest:
    """Decode every item twice with the plan's one strategy on its one task, either copy first in half of the turns.

    Raises UsageError for a plan of more than one cell, or of too few batches.
    """
    job = prepare_job(plan)
    cells = [(task, wanted) for task in job.tasks for wanted in wanted_of(plan, task, job.strategies)]
    if len(cells) != 1:
        raise UsageError(f"aa: got {len(cells)} rows to run, expected one strategy on one task in one setting")
    ((task, (strategy, spec, setting, size)),) = cells
    if strategy.uses_reference:
        raise UsageError(f"aa: got '{spec.spec}', which goes by another's decode; expected a strategy of its own")
    items = job.items[task.name]
    batches = [items[at : at + size] for at in range(0, len(items), size)]
    if len(batches) < FEWEST_BATCHES:
        raise UsageError(f"aa: got {len(batches)} batches, expected at least {FEWEST_BATCHES}; raise --limit")

    def run(number: int) -> BatchDecoded:
        batch = batches[number]
        ids = [job.prompts[task.name, item.doc_id] for item in batch]
        return decode(job.host, strategy, ids, [sample_seed(plan.seed, i.doc_id) for i in batch], setting)

    warm_up(lambda: run(0))
    pairs = []
    console = console or Console(stderr=True)
    for number in track(range(len(batches)), "A/A", console=console, transient=True, disable=not console.is_terminal):
        seconds = [run(number).decode_s for _ in range(2)]
        pairs.append((seconds[number % 2], seconds[1 - number % 2]))  # which copy is first changes every time
    return SelfTest(spec.spec, task.name, pairs)
