"""Intervals and tests against closed forms, enumerations and tables."""

from __future__ import annotations

import gc
import itertools
import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from statsmodels.stats import contingency_tables, multitest, proportion  # type: ignore[import-untyped]

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
    @pytest.mark.parametrize(("b", "c"), [(0, 6), (6, 0), (1, 1), (10, 2), (2, 10), (25, 14), (1, 0), (40, 3)])
    def test_enumeration(self, b: int, c: int) -> None:
        """The p is the share of all splits of the differing pairs that are at least as uneven."""
        n = b + c
        uneven = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(b - c))
        assert stats.mcnemar(b, c) == pytest.approx(uneven / 2**n, rel=1e-9)

    def test_known(self) -> None:
        """Six to none is 2/64; where nothing differs p is 1."""
        assert stats.mcnemar(0, 6) == pytest.approx(0.03125)
        assert stats.mcnemar(0, 0) == 1.0


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


TABLES = [[random.Random(seed + i).randint(i == 3, 30) for i in range(4)] for seed in range(0, 160, 4)]


class TestTables:
    """Random tables against another library."""

    @pytest.mark.parametrize("table", TABLES)
    def test_mcnemar(self, table: list[int]) -> None:
        """McNemar's exact p is statsmodels'."""
        both, only_first, only_second, neither = table
        p = contingency_tables.mcnemar([[both, only_first], [only_second, neither]], exact=True).pvalue
        assert stats.mcnemar(only_first, only_second) == pytest.approx(p, abs=1e-12)

    @pytest.mark.parametrize("table", TABLES)
    def test_wilson(self, table: list[int]) -> None:
        """Wilson's interval is statsmodels'."""
        right, total = table[0], sum(table)
        theirs = proportion.proportion_confint(right, total, method="wilson")
        assert stats.wilson(right, total) == pytest.approx(theirs, abs=1e-9)

    @pytest.mark.parametrize("seed", range(20))
    def test_holm(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Holm's adjusted p are statsmodels', ties included."""
        monkeypatch.setattr(gc, "collect", lambda: 0)  # theirs collects all of pytest's garbage, every time
        rng = random.Random(seed)
        ps = [round(rng.random() ** 3, 2) for _ in range(rng.randint(1, 12))]
        assert stats.holm(ps) == pytest.approx(multitest.multipletests(ps, method="holm")[1])


class TestPairedDifference:
    @pytest.mark.parametrize("n", [1, 20, 380, 5000])
    def test_no_difference(self, n: int) -> None:
        """Where no pair differs, the interval's ends are z^2 / (n + z^2) away from 0."""
        edge = Z * Z / (n + Z * Z)
        assert stats.paired_difference(0, 0, n) == pytest.approx((-edge, edge), abs=1e-9)

    @pytest.mark.parametrize("table", TABLES)
    def test_agrees_with_mcnemar(self, table: list[int]) -> None:
        """0 lies outside just where McNemar's statistic, without a correction, is beyond the normal quantile."""
        _, b, c, _ = table
        interval = stats.paired_difference(b, c, sum(table))
        assert interval is not None
        is_outside = not interval.low <= 0 <= interval.high
        assert is_outside == ((b - c) ** 2 > Z * Z * (b + c))

    @pytest.mark.parametrize("table", TABLES)
    def test_ends(self, table: list[int]) -> None:
        """At either end the score statistic, its nuisance maximised by brute force, is the normal quantile."""
        _, b, c, _ = table
        n = sum(table)
        interval = stats.paired_difference(b, c, n)
        assert interval is not None
        for delta in interval:
            if abs(delta) > 1 - 1e-9:
                continue
            # the likeliest shares (p12 = p21 + delta) of pairs in which just one is right
            p21 = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
            rest = n - b - c
            likelihood = np.zeros_like(p21)
            for count, share in ((b, p21 + delta), (c, p21), (rest, 1 - 2 * p21 - delta)):
                likelihood += count * np.log(np.clip(share, 1e-300, None)) if count else 0.0
            best = float(p21[likelihood.argmax()])
            z = (b - c - n * delta) / math.sqrt(n * (2 * best + delta - delta**2))
            assert abs(z) == pytest.approx(Z, abs=2e-3)

    def test_mirrored(self) -> None:
        """Exchanging the two gives the mirrored interval."""
        ours, theirs = stats.paired_difference(3, 9, 50), stats.paired_difference(9, 3, 50)
        assert ours is not None and theirs is not None
        assert ours == pytest.approx((-theirs.high, -theirs.low))

    def test_coverage(self) -> None:
        """Over 2,000 random experiments, the interval holds the true difference in 93 to 97 % of them."""
        rng, hits = np.random.default_rng(1), 0
        for b, c, _ in rng.multinomial(120, (0.10, 0.04, 0.86), size=2000):
            interval = stats.paired_difference(int(b), int(c), 120)
            hits += interval is not None and interval.low <= 0.06 <= interval.high
        assert 0.93 < hits / 2000 < 0.97

    def test_nothing(self) -> None:
        """Without pairs there is no interval; with all pairs one-sided, an end is the edge."""
        assert stats.paired_difference(0, 0, 0) is None
        assert stats.paired_difference(5, 0, 5) == pytest.approx((stats.paired_difference(5, 0, 5)[0], 1.0))  # type: ignore[index]


class TestSamplesNeeded:
    def test_no_difference(self) -> None:
        """Without differing pairs, z^2 (1 - m) / m pairs bring the end to m."""
        for margin in (0.01, 0.02, 0.05):
            exact = Z * Z * (1 - margin) / margin
            assert exact <= (stats.samples_needed(0, 0, 20, margin) or 0) <= 1.01 * exact + 1

    @pytest.mark.parametrize(
        ("b", "c", "n", "penalty"), [(1, 2, 100, 1), (3, 4, 200, 1), (0, 2, 300, 1), (5, 5, 50, 1), (0, 6, 280, 9)]
    )
    def test_tells(self, b: int, c: int, n: int, penalty: float) -> None:
        """With so many either is told, with those there are neither; and never are fewer said than there are."""
        needed = stats.samples_needed(b, c, n, 0.01, penalty)
        assert needed is not None and needed >= n

        def told(m: int) -> bool:
            first, second = (int(count * m / n + 0.5) for count in (b, c))
            interval = stats.paired_difference(first, second, m)
            is_worse = penalty * binomtest(first, first + second).pvalue < 0.05 if first < second else False
            return is_worse or (interval is not None and interval.low > -0.01)

        assert told(needed)
        assert needed == n or not told(n)

    def test_never(self) -> None:
        """Where nothing is known, as many are needed as where nothing differs; a great penalty needs more."""
        assert stats.samples_needed(0, 0, 0, 0.01) == stats.samples_needed(0, 0, 20, 0.01)
        one, ten = (stats.samples_needed(0, 6, 280, 0.01, penalty) for penalty in (1.0, 10.0))
        assert one is not None and ten is not None and one == 280 < ten
