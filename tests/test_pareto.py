"""Figures of a sweep, against published values, brute force and other readings of their definitions."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from l2pd_bench.pareto import aup, iso_speed, pareto, pbx

# d3LLM's board: points (TPF, accuracy), y_max = the best of its table, and the AUP it prints (hao-ai-lab/d3LLM).
PUBLISHED = [
    ([(1, 74.02), (9.11, 73.09)], 74.98, 637.7, 637.655),
    ([(1, 74.0), (5.14, 72.63)], 74.98, 358.1, 358.142),
    ([(1, 83.47), (4.94, 81.36)], 83.94, 391.3, 391.328),
    ([(1, 32.76), (5.74, 30.36)], 41.15, 107.6, 107.642),
]


def random_points(draw: random.Random, count: int) -> list[tuple[float, float]]:
    """Points on a coarse grid, so that many are equal in one number or both."""
    return [(draw.randint(1, 6), 10.0 * draw.randint(4, 9)) for _ in range(count)]


class TestPareto:
    def test_brute_force(self) -> None:
        """On random points with ties, what is kept is exactly what no other point is better or equal to in both."""
        draw = random.Random(0)
        for _ in range(500):
            points = random_points(draw, draw.randint(0, 12))
            beaten = {
                i for i, (x, y) in enumerate(points) if any(u >= x and v >= y and (u, v) != (x, y) for u, v in points)
            }
            kept = pareto(points)

            assert set(kept) == set(range(len(points))) - beaten
            assert len(kept) == len(set(kept))
            assert [points[i][0] for i in kept] == sorted((points[i][0] for i in kept), reverse=True)


class TestAup:
    @pytest.mark.parametrize(("points", "y_max", "printed", "exact"), PUBLISHED)
    def test_published(self, points: list[tuple[float, float]], y_max: float, printed: float, exact: float) -> None:
        """The published values come out, to the digit they are printed with, and to three that were worked out."""
        found = aup(points, y_max)

        assert found is not None
        assert round(found, 1) == printed
        assert round(found, 3) == exact

    def test_slow_reading(self) -> None:
        """On random sweeps it is the area under a densely sampled line, plus the rectangle up to the first point."""
        draw = random.Random(1)
        for _ in range(50):
            points = [(draw.uniform(0.5, 20), draw.uniform(60, 95)) for _ in range(draw.randint(1, 7))]
            y_max = draw.uniform(60, 95)
            rest = sorted(points)
            first = rest[0]
            rest = [p for p in rest if first[1] - p[1] <= 5]
            weighted = {p: p[1] * (1 if p[1] >= y_max else math.e ** (3 * p[1] / y_max - 3)) for p in rest}
            area = first[0] * first[1]
            for a, b in pairwise(rest):
                slices = 1000
                for i in range(slices):  # the middle of every slice of the straight line
                    at = (i + 0.5) / slices
                    area += (b[0] - a[0]) / slices * (weighted[a] * (1 - at) + weighted[b] * at)

            assert aup(points, y_max) == pytest.approx(area, rel=1e-9)
            assert aup(points[::-1], y_max) == aup(points, y_max)

    def test_losses_beyond_five_points(self) -> None:
        """A point more than 5 points below the first is left out, also the last one; at exactly 5 it counts."""
        kept = [(1.0, 80.0), (4.0, 75.0)]

        assert aup([*kept, (9.0, 74.9)], 80.0) == aup(kept, 80.0)
        assert aup([(1.0, 80.0), (2.0, 40.0), (4.0, 75.0)], 80.0) == aup(kept, 80.0)
        assert aup(kept, 80.0) != aup(kept[:1], 80.0)

    def test_edges(self) -> None:
        """One point is a rectangle; above y_max nothing weighs more; without points or y_max there is no figure."""
        assert aup([(1.0, 74.0)], 90.0) == 74.0
        assert aup([(1.0, 80.0), (2.0, 90.0)], 70.0) == pytest.approx(80 + 85)
        assert aup([], 90.0) is None
        assert aup([(1.0, 0.0)], 0.0) is None


class TestPbx:
    def test_shares_of_the_baseline(self) -> None:
        """The fastest point that keeps the share counts, wherever it stands; where none does, there is no figure."""
        points = [(2.0, 80.0), (9.0, 72.0), (5.0, 40.0), (12.0, 60.0)]

        assert [pbx(points, 80.0, x) for x in (100, 90, 75, 50, 101)] == [2.0, 9.0, 12.0, 12.0, None]
        assert pbx([], 80.0, 90) is None
        assert pbx(points, 0.0, 90) is None

    def test_share_that_no_float_holds(self) -> None:
        """Exactly x percent is enough, though 90 % of 13 is more than 11.7 in binary."""
        assert 90 / 100 * 13 > 11.7
        assert pbx([(3.0, 11.7)], 13.0, 90) == 3.0


class TestIsoSpeed:
    @pytest.mark.parametrize(
        ("points", "wanted"),
        [
            ([(1.0, 90.0), (3.0, 80.0)], 2.0),  # half way down
            ([(3.0, 80.0), (1.0, 90.0), (2.0, 85.0)], 2.0),  # at a point, in any order
            ([(1.0, 90.0), (4.0, 88.0)], 4.0),  # never falls to it: no further than measured
            ([(1.0, 84.0), (2.0, 80.0)], None),  # never reaches it
            ([(1.0, 80.0), (2.0, 90.0), (4.0, 80.0)], 3.0),  # rises above and falls again
            ([(1.0, 95.0), (2.0, 70.0), (5.0, 85.0)], 5.0),  # the fastest of several crossings
            ([(2.0, 85.0)], 2.0),
            ([], None),
        ],
    )
    def test_where_the_line_has_85(self, points: list[tuple[float, float]], wanted: float | None) -> None:
        """The speed is that of the last place at which the straight line through the points is at the accuracy."""
        assert iso_speed(points, 85.0) == pytest.approx(wanted)

    def test_scan(self) -> None:
        """On random points a scan of the line at fine steps finds the same place."""
        draw = random.Random(2)
        for _ in range(100):
            points = sorted({x: 1.0 * draw.randint(60, 95) for x in draw.sample(range(1, 30), 6)}.items())
            best = None
            for (a, p), (b, q) in pairwise(points):
                for i in range(201):
                    if p + (q - p) * i / 200 >= 80 - 1e-9:
                        best = a + (b - a) * i / 200
            found = iso_speed([(float(x), y) for x, y in points], 80.0)

            assert (found is None) == (best is None)
            assert found is None or best is None or abs(found - best) <= 29 / 200
