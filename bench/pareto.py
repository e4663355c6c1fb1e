"""What a sweep comes to, as functions of plain numbers: (speed, accuracy) points in, one figure out.

Accuracy is in percent. Which points belong together is the caller's affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]  # speed, accuracy in percent

ALPHA, MOST_LOSS = 3.0, 5.0  # of AUP, as its authors have them
PBX = (90, 80, 70, 60)


def pareto(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other one beats, fastest first; equal points stay together.

    A point is beaten by one that is at least as good in both numbers, and better in one.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i)):
        if not kept or points[i][1] > points[kept[-1]][1] or points[i] == points[kept[-1]]:
            kept.append(i)
    return kept


def aup(points: Sequence[Point], y_max: float) -> float | None:
    """Accuracy under parallelism (d3LLM, arXiv 2601.07568): an area under accuracy over speed, in which losses weigh.

    Over the points sorted by speed rho, without those more than 5 points below the first:

        rho_1 y_1 + sum over i >= 2 of (rho_i - rho_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1))) / 2
        W(y) = min(exp(-3 (1 - y / y_max)), 1)

    None without points, or where `y_max` is nothing. The authors' code stops with an error
    where the last point is one to leave out; here it is left out like any other. Their
    y_max is the best accuracy of all methods in a table, so that it moves with the table.
    """
    if not points or y_max <= 0:
        return None
    ordered = sorted(points, key=lambda point: (point[0], -point[1]))
    kept = [point for point in ordered if point[1] >= ordered[0][1] - MOST_LOSS]

    def weighted(y: float) -> float:
        return y * min(math.exp(-ALPHA * (1 - y / y_max)), 1.0)

    area = kept[0][0] * kept[0][1]
    for (rho_before, y_before), (rho, y) in pairwise(kept):
        area += (rho - rho_before) * (weighted(y) + weighted(y_before)) / 2
    return area


def pbx(points: Sequence[Point], y_max: float, x: float) -> float | None:
    """The highest speed with an accuracy of at least `x` percent of `y_max`; None where no point has that.

    ParallelBench (arXiv 2510.04767) asks for a score of at least `x` itself, averaged over
    tasks that a perfect model solves; where the model's best is 60, only a share of it says something.
    """
    if y_max <= 0:
        return None
    return max((speed for speed, y in points if y >= x / 100 * y_max - 1e-9), default=None)


def iso_speed(points: Sequence[Point], accuracy: float) -> float | None:
    """The highest speed at which the line through the points has this accuracy; None where it never gets there.

    The line is straight between neighbours in speed, and goes on beyond no point.
    """
    found = None
    ordered = sorted(points)
    for i, (speed, y) in enumerate(ordered):
        if y < accuracy:
            continue
        found = speed
        if i + 1 < len(ordered) and ordered[i + 1][1] < accuracy:
            after, y_after = ordered[i + 1]
            found = speed + (after - speed) * (y - accuracy) / (y - y_after)
    return found
