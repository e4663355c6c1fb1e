"""`l2pd-bench bench select`: what every registered strategy's own code costs per step, and beside the forward.

Each decodes the same prompts, so that it sees what it sees in a run, with its own models
and its memory. `begin` is timed by itself, as the decode's clock counts it to nobody.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple, cast

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.benchmark_setup import Setup
from l2pd_bench.engine import decode
from l2pd_bench.hosts.base import Host
from l2pd_bench.registry import catalog, load_strategy
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy

BASELINE = "fixed-step"


class Timed:
    """Stands between the engine and a strategy: counts the steps, and times `begin`."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.steps, self.begin_s = 0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def begin(self, context: Context) -> Select:
        """See `Strategy.begin`."""
        began = perf_counter()
        rule = self._strategy.begin(context)
        self.begin_s += perf_counter() - began

        def select(view: StepView) -> Decision:
            self.steps += 1
            return rule(view)

        return select


class Seen(NamedTuple):
    """One decode."""

    select_us: float  # per step
    share: float  # of the forwards' seconds
    begin_us: float


def measure_select(rounds: int, setup: Setup) -> list[Figure]:
    """For every strategy and batch size, by interleaved rounds."""
    host = setup.load()
    prompts = setup.prompts(host, max(setup.batch_sizes))
    names = [entry.name for entry in catalog("strategies") if entry.error is None]
    strategies = {name: load_strategy(name)[0] for name in names}
    cases = [(n, b) for n, s in strategies.items() for b in setup.batch_sizes if b == 1 or s.frontier() is None]
    baseline = decode(host, load_strategy(BASELINE)[0], prompts, range(len(prompts)), setup.settings("dual"))
    references = [sample.output_ids for sample in baseline.samples]
    seen: dict[tuple[str, int], list[Seen]] = {case: [] for case in cases}
    for turn in range(rounds + 1):
        at = turn % len(cases)
        for name, batch in cases[at:] + cases[:at]:
            found = _once(host, strategies[name], prompts[:batch], references[:batch], setup)
            seen[name, batch].append(found)
    figures = []
    for (name, batch), runs in seen.items():
        label, timed = f"{name}, batch {batch}", runs[1:]  # the first was the warm-up
        figures += [
            Figure(f"select, microseconds per step, {label}", [r.select_us for r in timed]),
            Figure(f"select / forward, {label}", [r.share for r in timed]),
        ]
        if batch == min(setup.batch_sizes):
            figures.append(Figure(f"begin, microseconds, {name}", [r.begin_us for r in timed]))
    return figures


def _once(host: Host, strategy: Strategy, prompts: list[list[int]], references: list[list[int]], setup: Setup) -> Seen:
    timed = Timed(strategy)
    settings = setup.settings("dual" if strategy.frontier() is None else "none")
    shown = references if strategy.uses_reference else None
    done = decode(host, cast(Strategy, timed), prompts, range(len(prompts)), settings, shown)
    return Seen(done.select_s / timed.steps * 1e6, done.select_s / done.model_s, timed.begin_s * 1e6)
