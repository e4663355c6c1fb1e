"""Intervals and tests against closed forms, enumerations and tables."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy.stats import bootstrap  # type: ignore[import-untyped]

from l2pd_bench import stats

Z = 1.959963984540054  # the normal quantile of 0.975


def wilson_formula(successes: int, trials: int) -> tuple[float, float]:
    """Wilson 1927: the roots of (p - s/n)^2 = z^2 p (1 - p) / n."""
    share, z2 = successes / trials, Z * Z
    middle = share + z2 / (2 * trials)
    spread = Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return (middle - spread) / scale, (middle + spread) / scale


class TestWilson:
    @pytest.mark.parametrize(
        ("successes", "trials"), [(0, 1), (1, 1), (0, 10), (8, 10), (10, 10), (170, 200), (1, 5000)]
    )
    def test_formula(self, successes: int, trials: int) -> None:
        """The interval is the one of Wilson's formula, edges included."""
        assert stats.wilson(successes, trials) == pytest.approx(wilson_formula(successes, trials), abs=1e-9)

    def test_table(self) -> None:
        """Newcombe 1998, table I, method 3: 81 of 263 and 15 of 148."""
        assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
        assert stats.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)

    def test_nothing(self) -> None:
        """Without trials there is no interval."""
        assert stats.wilson(0, 0) is None


class TestMcNemar:
    @staticmethod
    def pairs(only_first: int, only_second: int, both: int = 3, neither: int = 2) -> list[tuple[bool, bool]]:
        """So many pairs of each kind."""
        return (
            [(True, False)] * only_first + [(False, True)] * only_second
            + [(True, True)] * both + [(False, False)] * neither
        )  # fmt: skip

    @pytest.mark.parametrize(("b", "c"), [(0, 6), (6, 0), (1, 1), (10, 2), (2, 10), (25, 14), (1, 0), (40, 3)])
    def test_enumeration(self, b: int, c: int) -> None:
        """The p is the share of all splits of the differing pairs that are at least as uneven."""
        n = b + c
        uneven = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(b - c))
        assert stats.mcnemar(self.pairs(b, c)) == pytest.approx(uneven / 2**n, rel=1e-9)

    def test_known(self) -> None:
        """Six to none is 2/64; equal pairs do not change it."""
        assert stats.mcnemar(self.pairs(0, 6, both=0)) == pytest.approx(0.03125)
        assert stats.mcnemar(self.pairs(0, 6, both=500)) == pytest.approx(0.03125)

    def test_no_difference(self) -> None:
        """Pairs that never differ have p 1; no pairs have none."""
        assert stats.mcnemar(self.pairs(0, 0)) == 1.0
        assert stats.mcnemar([]) is None


class TestBootstrapRatio:
    def test_enumeration(self) -> None:
        """With four pairs, the quantiles are those of all 256 resamples."""
        pairs = [(1.0, 0.9), (2.0, 0.4), (1.5, 0.5), (4.0, 0.7)]
        every = [sum(a for a, _ in r) / sum(b for _, b in r) for r in itertools.product(pairs, repeat=4)]
        found = stats.bootstrap_ratio(pairs)

        assert found is not None
        for share, bound in ((0.025, found.low), (0.975, found.high)):
            assert np.quantile(every, share - 0.006) <= bound <= np.quantile(every, share + 0.006)

    def test_scipy(self) -> None:
        """On 200 pairs it agrees with scipy's paired percentile bootstrap."""
        rng = np.random.default_rng(7)
        second = rng.gamma(8.0, 0.1, 200)
        first = second * rng.normal(3.0, 0.6, 200)
        theirs = bootstrap(
            (first, second), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, method="percentile", rng=rng
        ).confidence_interval
        found = stats.bootstrap_ratio(list(zip(first.tolist(), second.tolist(), strict=True)))

        assert found == pytest.approx((theirs.low, theirs.high), rel=5e-3)

    def test_coverage(self) -> None:
        """About 95 % of the intervals hold the true ratio."""
        rng = random.Random(3)
        held = 0
        for _ in range(200):
            pairs = [(3 * b * rng.uniform(0.5, 1.5), b) for b in (rng.uniform(0.5, 1.5) for _ in range(40))]
            interval = stats.bootstrap_ratio(pairs)
            assert interval is not None
            held += interval.low <= 3 <= interval.high

        assert 178 <= held <= 199

    def test_repeatable(self) -> None:
        """The same pairs always give the same interval, also where they are drawn in several portions."""
        pairs = [(random.Random(i).random() + 1, 1.0) for i in range(3000)]
        assert stats.bootstrap_ratio(pairs) == stats.bootstrap_ratio(list(pairs))

    def test_edges(self) -> None:
        """Too few pairs, or no seconds at all, have no interval; equal pairs have one of no width."""
        assert stats.bootstrap_ratio([]) is None
        assert stats.bootstrap_ratio([(2.0, 1.0)]) is None
        assert stats.bootstrap_ratio([(1.0, 0.0), (1.0, 0.0)]) is None
        assert stats.bootstrap_ratio([(1.0, 0.5)] * 9) == (2.0, 2.0)


class TestPlain:
    def test_ratio(self) -> None:
        """The ratio is that of the sums; None over nothing."""
        assert stats.ratio([(1.0, 1.0), (3.0, 1.0)]) == 2.0
        assert stats.ratio([]) is None
        assert stats.ratio([(1.0, 0.0)]) is None

    def test_mean(self) -> None:
        """The mean of nothing is None."""
        assert stats.mean([1, 2]) == 1.5
        assert stats.mean([]) is None

    @pytest.mark.parametrize("count", [1, 2, 9, 10, 101])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
    def test_percentile(self, count: int, share: float) -> None:
        """Percentiles are numpy's default ones; of nothing there is none."""
        values = [random.Random(i).random() for i in range(count)]
        assert stats.percentile(values, share) == pytest.approx(np.quantile(values, share))
        assert stats.percentile([], share) is None
