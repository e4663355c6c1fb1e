"""The frontier of a section in words and cells; renderers only lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from l2pd_bench.pareto import ALPHA, MOST_LOSS, PBX
from l2pd_bench.report.board import Curve, Frontier
from l2pd_bench.report.columns import MISSING
from l2pd_bench.specs import show

TITLE = "speed knob"


@dataclass(frozen=True)
class CurveColumn:
    """One column of the table of curves."""

    title: str
    text: Callable[[Curve], str]


def pareto_lines(frontier: Frontier) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the frontier consists of, fastest first, by each kind of speed."""
    for what, rows in (("TPS", frontier.by_tps), ("TPF", frontier.by_tpf)):
        if rows:
            yield f"{PARETO} by {what}", tuple(row.spec for row in rows)


def knob_values(curve: Curve) -> list[str]:
    """The values that were tried, slowest first."""
    return [show(row.run.manifest.strategy.params[curve.knob]) for row in curve.rows]


def _number(value: float | None, places: int, unit: str = "") -> str:
    return MISSING if value is None else f"{value:.{places}f}{unit}"


def _pbx(x: int, curve: Curve) -> str:
    return _number(dict(curve.pbx)[x], 2)


CURVE_COLUMNS = (
    CurveColumn("values", lambda curve: ", ".join(knob_values(curve))),
    CurveColumn("y_max", lambda curve: _number(curve.y_max, 1)),
    CurveColumn("AUP", lambda curve: _number(curve.aup_tpf, 1)),
    CurveColumn("AUP/s", lambda curve: _number(curve.aup_tps, 1)),
    *(CurveColumn(f"PB{x}", partial(_pbx, x)) for x in PBX),
    CurveColumn("iso", lambda curve: _number(curve.iso_speedup, 2, "x")),
)
STACKED = tuple(CURVE_COLUMNS[a:b] for a, b in pairwise((0, 1, 2, 4, 6, 8, 9)))  # what shares a column if it is narrow
PARETO = "Pareto"
PARETO_LEGEND = (
    "rows that no other one beats in both accuracy and speed, fastest first; of the finished VALID ones over the "
    "most items"
)
CURVE_LEGEND = (
    (TITLE, "a strategy, and the parameter by which alone the rows of its curve differ"),
    ("values", "what the knob was set to, slowest first"),
    ("y_max", "accuracy of fixed-step in percent, by which AUP weighs"),
    (
        "AUP",
        "area under accuracy y (percent) over TPF, from fixed-step on through all values that are faster; y counts "
        f"exp(-{ALPHA:g} (1 - y / y_max)) times, once at most, and not at all if more than {MOST_LOSS:g} points below "
        "fixed-step (d3LLM, arXiv 2601.07568)",
    ),
    ("AUP/s", "the same area over TPS: it says something of this machine only"),
    (
        "PBx",
        "highest TPF of a value with at least x percent of the accuracy of fixed-step (ParallelBench, "
        "arXiv 2510.04767, has x for the accuracy itself)",
    ),
    (
        "iso",
        "highest speedup at the accuracy of fixed-step, by straight line between values next to each other in speed; "
        f"{MISSING} where none has it",
    ),
)


def has_curves(frontiers: Iterable[Frontier | None]) -> bool:
    """Whether a table of curves has to be explained."""
    return any(frontier is not None and frontier.curves for frontier in frontiers)


def legend(frontiers: Sequence[Frontier | None]) -> Iterator[tuple[str, str]]:
    """What has to be explained of these frontiers."""
    if any(frontiers):
        yield PARETO, PARETO_LEGEND
    if has_curves(frontiers):
        yield from CURVE_LEGEND
