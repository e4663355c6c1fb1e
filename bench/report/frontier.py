"""What the rows of a section are together: the Pareto frontier, and the curves of what was swept.

Chooses rows and asks `pareto.py`; it does not know how a row was measured, nor how a
curve is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from l2pd_bench.pareto import PBX, Point, aup, iso_speed, pareto, pbx
from l2pd_bench.report.board import Curve, Frontier, Row, machine
from l2pd_bench.specs import parse

Speed = Callable[[Row], float | None]


def make_frontier(rows: Sequence[Row]) -> Frontier | None:
    """The frontier of a section; None where there are fewer than two rows to choose from.

    Those are deployable, finished and graded, over the largest set of items. On the frontier
    are only VALID ones; and seconds count only if all were measured on one kind of machine.
    """
    decoded = [row for row in rows if row.deployable and not row.derived and row.finished and row.accuracy is not None]
    most = max((len(row.run.samples) for row in decoded), default=0)
    chosen = [row for row in decoded if len(row.run.samples) == most]
    if len(chosen) < 2:
        return None
    speeds: dict[str, Speed] = {"tps": _nothing, "tpf": lambda row: row.tpf}
    if len({machine(row.run) for row in chosen}) == 1:
        speeds["tps"] = lambda row: row.tps
    ranked = [row for row in chosen if row.ranked]
    by_tps, by_tpf = (_best(ranked, speeds[name]) for name in ("tps", "tpf"))
    return Frontier(by_tps, by_tpf, tuple(_curves(chosen, speeds)))


def _nothing(row: Row) -> float | None:
    return None


def _points(rows: Sequence[Row], speed: Speed) -> list[tuple[Row, Point]]:
    """The rows that have a speed, each with its point."""
    return [(row, (x, row.accuracy)) for row in rows if (x := speed(row)) is not None and row.accuracy is not None]


def _best(rows: Sequence[Row], speed: Speed) -> tuple[Row, ...]:
    found = _points(rows, speed)
    return tuple(found[i][0] for i in pareto([point for _, point in found]))


def _curves(rows: Sequence[Row], speeds: dict[str, Speed]) -> Iterator[Curve]:
    """One curve for each strategy, or more if another parameter differs too; none without a baseline to measure by."""
    groups: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        strategy = row.run.manifest.strategy
        groups[strategy.name, str(strategy.distribution), strategy.code_hash].append(row)
    for _, group in sorted(groups.items()):
        knob, families = _families(group)
        for family in families:
            base = next((row for row in rows if row.run is family[0].baseline), None)
            if base is not None and base.accuracy is not None:
                yield _curve(knob, family, base, speeds)


def _families(group: Sequence[Row]) -> tuple[str, list[list[Row]]]:
    """The parameter that is the knob, and the rows that differ in it alone, at two values or more.

    Records do not tell the knob: it is the number that makes the longest family, the first of equals.
    """
    found: list[tuple[str, list[list[Row]]]] = []
    for knob in group[0].run.manifest.strategy.params:
        families: defaultdict[str, list[Row]] = defaultdict(list)
        for row in group:
            params = dict(row.run.manifest.strategy.params)
            if type(params.pop(knob, None)) in (int, float):
                families[repr(sorted(params.items()))].append(row)
        found.append((knob, [f for _, f in sorted(families.items()) if len({_value(row, knob) for row in f}) > 1]))
    return max(found, key=lambda pair: max(map(len, pair[1]), default=0), default=("", []))


def _value(row: Row, knob: str) -> float:
    return float(row.run.manifest.strategy.params[knob] or 0)


def _curve(knob: str, family: list[Row], base: Row, speeds: dict[str, Speed]) -> Curve:
    """The curve of all rows, and figures of the VALID ones: none if the baseline is not."""
    ordered = sorted(family, key=lambda row: (_value(row, knob), row.tpf or 0.0))
    if (ordered[0].tpf or 0.0) > (ordered[-1].tpf or 0.0):
        ordered.reverse()
    name, params = parse(ordered[0].spec, "strategy")
    others = ",".join(f"{key}={value}" for key, value in params.items() if key != knob)
    y_max = base.accuracy or 0.0
    ranked = [row for row in ordered if row.ranked and base.ranked]
    by_tpf = [point for _, point in _points(ranked, speeds["tpf"])]
    by_speedup = [point for _, point in _points(ranked, lambda row: row.speedup.value if row.speedup else None)]
    return Curve(
        name=f"{name}:{others}" if others else name,
        knob=knob,
        rows=tuple(ordered),
        y_max=y_max,
        aup_tpf=_aup(ranked, base, speeds["tpf"]),
        aup_tps=_aup(ranked, base, speeds["tps"]),
        pbx=tuple((x, pbx(by_tpf, y_max, x)) for x in PBX),
        iso_speedup=iso_speed(by_speedup, y_max),
    )


def _aup(rows: Sequence[Row], base: Row, speed: Speed) -> float | None:
    """AUP of a curve that begins at the baseline.

    The authors begin at the method with one token per forward, which is the baseline for
    every rule that needs no training. Else a rule tried at bad values only would have its own
    first point for a measure. What is no faster than the baseline adds no area.
    """
    start = [point for _, point in _points([base], speed)]
    if not start or not rows:
        return None
    faster = [point for _, point in _points(rows, speed) if point[0] > start[0][0]]
    return aup([*start, *faster], base.accuracy or 0.0)
