"""What a plot shows of a section: series of points, and axes that fit them.

Knows nothing of ink: `plot.py` draws with letters, `figure.py` with matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from l2pd_bench.report.board import Frontier, Row, Section

STEPS = (1, 2, 5, 10, 20, 25)  # between the ticks of a percentage
TICKS = 7  # fewer than these, on any axis


class Series(NamedTuple):
    """Rows that belong together, slowest first; one row alone is one too."""

    label: str
    rows: tuple[Row, ...]
    kind: Literal["curve", "row", "bound"]  # a bound cannot be deployed


class Panel(NamedTuple):
    """Accuracy over one kind of speed."""

    title: str
    speed: Callable[[Row], float | None]
    frontier: tuple[Row, ...]  # fastest first


class Axis(NamedTuple):
    """Where an axis begins and ends, and what is written along it."""

    low: float
    high: float
    ticks: tuple[float, ...]


def series_of(section: Section) -> list[Series]:
    """The curves, the other finished rows, and the bounds; only what is graded."""
    frontier = section.frontier or Frontier((), (), ())
    found = [Series(f"{curve.name} ({curve.knob})", curve.rows, "curve") for curve in frontier.curves]
    drawn = {id(row) for series in found for row in series.rows}
    graded = [row for row in section.rows if row.accuracy is not None and row.finished and id(row) not in drawn]
    found += [Series(row.spec, (row,), "row") for row in graded if row.deployable]
    return found + [Series(row.spec, (row,), "bound") for row in graded if not row.deployable]


def printable(text: str) -> str:
    """Text from a record without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def panels_of(section: Section) -> Iterator[Panel]:
    """Over TPS, where all rows were measured on one kind of machine, and over TPF."""
    frontier = section.frontier or Frontier((), (), ())
    if section.one_machine:
        yield Panel("TPS: net tokens per decode second", lambda row: row.tps, frontier.by_tps)
    yield Panel("TPF: net tokens per forward", lambda row: row.tpf, frontier.by_tpf)


def points(rows: Sequence[Row], speed: Callable[[Row], float | None]) -> list[tuple[Row, float, float]]:
    """The rows that can be drawn, with speed and accuracy."""
    return [(row, x, row.accuracy) for row in rows if (x := speed(row)) and row.accuracy is not None]


def percent_axis(values: Sequence[float]) -> Axis:
    """An axis from 0 to 100 at most, around these values, with round ticks."""
    low, high = min(values), max(values)
    step = next(s for s in STEPS if s == STEPS[-1] or (high - low) / s <= TICKS - 3)
    begin, end = max(0, math.floor(low / step) * step), min(100, math.ceil(high / step) * step)
    if begin == end:
        begin, end = max(0, begin - step), min(100, end + step)
    return Axis(begin, end, tuple(range(begin, end + 1, step)))


def speed_axis(values: Sequence[float]) -> Axis:
    """An axis from 0, as AUP's areas have it, to a little beyond these values, with round ticks."""
    high = max(values) * 1.03
    unit = 10.0 ** math.floor(math.log10(high))
    step = next(m * unit for m in (0.1, 0.2, 0.5, 1.0, 2.0) if high / (m * unit) < TICKS)
    return Axis(0.0, high, tuple(round(i * step, 12) for i in range(math.floor(high / step) + 1)))
