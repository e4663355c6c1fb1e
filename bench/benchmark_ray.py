"""`bench ray`: what a second worker on this machine gains, and what handing out costs.

Two workers of one torch thread each are started once. One of them and both take turns with
the same run, recorded as ever; their start and warm-up are outside.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.errors import BenchError
from l2pd_bench.plan import Plan, make_plan
from l2pd_bench.ray_executor import RayCrew, ray_executor
from l2pd_bench.records import load_runs
from l2pd_bench.runner import run_agenda
from l2pd_bench.sharded_executor import ShardedExecutor

WORKERS = 2
TARGET = 1.7
RUN = {
    **{"strategy": ["fixed-step", "threshold"], "task": ["mini-code"], "limit": 40},
    **{"cache": ["dual"], "eot": ["stop"]},
}


def measure_ray(rounds: int) -> list[Figure]:
    """Rounds of samples per second, two workers' over one's; and what of one's time is no decode."""
    gains, costs = [], []
    with TemporaryDirectory() as folder:
        plan = make_plan(None, {**RUN, "executor": "ray", "workers": WORKERS})
        crew = _LastingCrew(plan)
        try:
            every = ray_executor(plan, crew)
            for turn in range(rounds + 1):
                seconds = {}
                for workers in (1, WORKERS) if turn % 2 else (WORKERS, 1):  # all warm up in the first turn
                    output = Path(folder, f"{turn}-{workers}")
                    began = perf_counter()
                    _record(replace(plan, output=output), every.first(workers))
                    seconds[workers] = perf_counter() - began
                if turn:
                    decoded = sum(s.seconds.decode for run in load_runs(Path(folder, f"{turn}-1")) for s in run.samples)
                    gains.append(seconds[1] / seconds[WORKERS])
                    costs.append(1 - decoded / seconds[1])
        finally:
            crew.end()
    return [
        Figure(f"samples per second, {WORKERS} workers / 1, one thread each", gains, at_least=TARGET),
        Figure("share of a worker's time in which it decodes nothing", costs),
    ]


class _LastingCrew(RayCrew):
    """Workers for several runs."""

    def close(self) -> None:
        """The end of a run is not theirs."""

    def end(self) -> None:
        """The end of all."""
        super().close()


def _record(plan: Plan, executor: ShardedExecutor) -> None:
    outcome = run_agenda(plan, executor.agenda, executor, command="l2pd-bench bench ray")
    if outcome.exit_code:
        raise BenchError(f"bench: {outcome.message}")
