"""`l2pd-bench bench`: how much the harness itself costs, one benchmark by one name.

What each measures is in a file of its own. Their figures are of one process, by rounds in
which everything that is compared takes its turn.
"""

from __future__ import annotations

from collections.abc import Callable

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.benchmark_setup import Setup
from l2pd_bench.errors import UsageError, unknown

QUICK = ("engine", "straightforward", "select", "records", "startup")  # minutes; what `all` is


def measure(what: str, rounds: int, setup: Setup) -> list[Figure]:
    """Run a benchmark, or `all` the quick ones. Raises UsageError for options that it knows nothing of."""
    if rounds < 1:
        raise UsageError(f"rounds: got {rounds}, expected at least 1")
    if what == "all":
        if setup.changed:
            raise UsageError(f"bench: got --{setup.changed[0]} for all, expected none; name one benchmark")
        return [figure for name in QUICK for figure in measure(name, rounds, setup)]
    on_model: dict[str, Callable[[int, Setup], list[Figure]]] = {
        "engine": _engine,
        "straightforward": _straightforward,
        "select": _select,
    }
    alone = {"records": _records, "startup": _startup, "loading": _loading, "report": _report, "ray": _ray}
    if what in on_model:
        return on_model[what](rounds, setup)
    if what not in alone:
        raise unknown("bench", what, [*on_model, *alone, "counts", "all"])
    if setup.changed:
        raise UsageError(f"bench: got --{setup.changed[0]} for {what}, expected none; it decodes nothing")
    return alone[what](rounds)


def _engine(rounds: int, setup: Setup) -> list[Figure]:
    from l2pd_bench.benchmark_engine import measure_engine

    return measure_engine(rounds, setup)


def _straightforward(rounds: int, setup: Setup) -> list[Figure]:
    if "batch-size" in setup.changed:
        raise UsageError("bench: got --batch-size for straightforward, expected none: it decodes one sample at a time")
    from l2pd_bench.benchmark_straightforward import measure_straightforward

    return measure_straightforward(rounds, setup)


def _select(rounds: int, setup: Setup) -> list[Figure]:
    if setup.caches:
        raise UsageError("bench: got --cache for select, expected none: it is dual, or none for what has no blocks")
    from l2pd_bench.benchmark_select import measure_select

    return measure_select(rounds, setup)


def _records(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_records import measure_records

    return measure_records(rounds)


def _startup(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_startup import measure_startup

    return measure_startup(rounds)


def _report(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_report import PEAK_BYTES, SECONDS, measure_report

    figures = []
    for shape, seen in measure_report(rounds).items():
        figures.append(Figure(f"report on {shape}, seconds", [s["seconds"] for s in seen], at_most=SECONDS))
        peaks = [s["peak_bytes"] / 1e9 for s in seen]
        figures.append(Figure(f"report on {shape}, peak memory, GB", peaks, at_most=PEAK_BYTES / 1e9))
    return figures


def _loading(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_loading import TARGET, measure_loading

    figures = []
    for dtype, seen in measure_loading(rounds).items():
        peaks = [one["peak"] / one["size"] for one in seen]
        figures.append(Figure(f"peak memory / weights in memory, {dtype}", peaks, at_most=TARGET))
        speed = [one["size"] / 1e9 / one["seconds"] for one in seen]
        figures.append(Figure(f"GB of weights per second, {dtype}", speed))
    return figures


def _ray(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_ray import measure_ray

    return measure_ray(rounds)
