"""Which strategy to use: the question a board is asked, answered in a sentence, or told why it cannot be.

Only reads rows and their verdicts; compares within one section.
"""

from __future__ import annotations

from collections.abc import Sequence

from l2pd_bench.report.board import Row
from l2pd_bench.verdict import about


def advice(rows: Sequence[Row], margin: float) -> str | None:
    """The fastest row whose loss is shown to be below `margin` points, if one is; None without a baseline to compare.

    Only ranked rows are advised: deployable, finished, VALID. Where none is known to lose so
    little, the fastest that may is named, with the samples that would tell.
    """
    bases = [row for row in rows if row.is_baseline]
    if not bases or not all(row.ranked and row.run.manifest.graded for row in bases):
        return None
    ranked = [row for row in rows if row.ranked and row.verdict is not None and not row.is_baseline]
    faster = sorted((r for r in ranked if r.verdict and r.verdict.speed == "faster"), key=_speed, reverse=True)
    sure = [row for row in faster if row.verdict and row.verdict.loss in ("none", "small")]
    open_ = [r for r in faster if r.verdict and r.verdict.loss == "undecided" and r.delta and r.delta.points > -margin]
    if sure:
        told = f"to lose at most {margin:g} pt, use {sure[0].spec}: {_factor(sure[0])} fixed-step's speed"
        if quicker := [row for row in open_ if _speed(row) > _speed(sure[0])]:
            told += f"; {quicker[0].spec} is faster yet ({_factor(quicker[0])}), but {_needs(quicker[0])}"
        return told
    if open_:
        first = open_[0]
        return (
            f"no faster strategy is shown to lose at most {margin:g} pt with these {len(first.run.samples)} samples; "
            f"the fastest that may is {first.spec} ({_factor(first)} fixed-step's speed), which {_needs(first)}"
        )
    if not ranked:
        return None
    why = "every faster strategy here seems to lose more" if faster else "none here is shown to be faster"
    return f"to lose at most {margin:g} pt, use fixed-step: {why}"


def _speed(row: Row) -> float:
    return row.speedup.value if row.speedup else 0.0


def _factor(row: Row) -> str:
    return f"{_speed(row):.1f}x"


def _needs(row: Row) -> str:
    return f"needs {about(row.verdict.samples if row.verdict else None)} samples to tell"
