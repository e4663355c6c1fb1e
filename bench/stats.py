"""Intervals, paired tests and percentiles, on plain numbers.

Knows nothing of records. What cannot be computed is None, never nan. Randomness is
seeded, so equal input always gives equal output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from statistics import NormalDist
from typing import Any, NamedTuple

RESAMPLES = 10_000
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

_AT_MOST = 2_000_000  # numbers drawn for one interval, as long as that leaves a tenth of the resamples
_GROUPS = 2_000  # more pairs than that are first added up in so many groups


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit."""
        return Interval(factor * self.low, factor * self.high)


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's interval of a proportion (J. Amer. Statist. Assoc. 1927); None without trials."""
    if trials == 0:
        return None
    share, z2 = successes / trials, _Z * _Z
    middle = share + z2 / (2 * trials)
    spread = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    low, high = (middle - spread) / (1 + z2 / trials), (middle + spread) / (1 + z2 / trials)
    return Interval(max(low, 0.0) if successes else 0.0, min(high, 1.0) if successes < trials else 1.0)


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p of "both are right equally often"; the pairs in which just one is right decide."""
    if only_first + only_second == 0:
        return 1.0  # they never differ
    from scipy.special import bdtr  # scipy.stats takes a second to import, and calls this

    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p of each test (Scand. J. Statist. 1979): below alpha for any has at most that error for all."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def paired_difference(only_first: float, only_second: float, pairs: float) -> Interval | None:
    """Tango's score interval of (share right in the first) - (share right in the second); None without pairs.

    (Statist. Med. 17:891, 1998.) `only_first` and `only_second` count the pairs in which just
    that one is right. It is wide where no pair differs, which a bootstrap would call certain;
    it holds 0 just where McNemar's statistic is below the normal quantile.
    """
    if pairs <= 0:
        return None
    from scipy.optimize import brentq

    def excess(delta: float, sign: int) -> float:
        b = (2 * pairs - only_first + only_second) * delta - only_first - only_second
        c = -only_second * delta * (1 - delta)
        rest = (math.sqrt(max(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)  # the likeliest share of `only_second`
        spread = max(pairs * (2 * rest + delta * (1 - delta)), 0.0)
        return only_first - only_second - pairs * delta - sign * _Z * math.sqrt(spread)

    middle, edge = (only_first - only_second) / pairs, 1 - 1e-12
    off = 1e-12  # in the middle itself both are 0 where no pair differs
    low = -1.0 if excess(-edge, 1) <= 0 else float(brentq(excess, -edge, min(middle, edge) - off, args=(1,)))
    high = 1.0 if excess(edge, -1) >= 0 else float(brentq(excess, max(middle, -edge) + off, edge, args=(-1,)))
    return Interval(low, high)


def samples_needed(only_first: int, only_second: int, pairs: int, margin: float, penalty: float = 1.0) -> int | None:
    """About how many pairs tell a loss of the first below `margin` from a loss, if they go on to differ as they do.

    Told is either if the interval's lower end lies above -margin, or if McNemar's p times
    `penalty` (what Holm makes of it) is significant. At least as many as there are; None
    where a hundred million would not tell.
    """
    most, low = 100_000_000, pairs
    count = max(pairs, 1)

    def tells(n: int) -> bool:
        first, second = ((count * n + pairs // 2) // pairs if pairs else 0 for count in (only_first, only_second))
        found = paired_difference(first, second, n)
        is_small = found is not None and found.low > -margin
        return is_small or (first < second and penalty * mcnemar(first, second) < 1 - CONFIDENCE)

    while not tells(count):
        if count > most:
            return None
        low, count = count, 2 * count
    while count - low > max(1, count // 100):
        middle = (low + count) // 2
        low, count = (low, middle) if tells(middle) else (middle, count)
    return count


def ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The ratio of sums, first over second; None where the second is nothing."""
    below = sum(map(itemgetter(1), pairs))
    return sum(map(itemgetter(0), pairs)) / below if below else None


def bootstrap_ratio(pairs: Sequence[tuple[float, float]]) -> Interval | None:
    """Percentile interval of the ratio of sums by resampling pairs; None with fewer than two pairs.

    Of more than `_GROUPS` pairs, groups of every so manieth one are resampled, which has the same variance.
    """
    if len(pairs) < 2:
        return None
    import numpy as np

    values = np.asarray(pairs, dtype=np.float64)  # (n, 2)
    if len(values) > _GROUPS:
        values = np.stack([values[i::_GROUPS].sum(axis=0) for i in range(_GROUPS)])
    sums = _resamples(len(values)) @ values  # (resamples, 2)
    if not sums[:, 1].all():
        return None  # a resample without any seconds has no ratio
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (tail, 1 - tail))
    return Interval(float(low), float(high))


@lru_cache(maxsize=8)
def _resamples(n: int) -> Any:
    """How often each of n is drawn in each resample, (resamples, n) float64: the same for all rows of n."""
    import numpy as np

    random = np.random.default_rng(0)
    rows = max(RESAMPLES // 10, min(RESAMPLES, _AT_MOST // n))
    chosen = random.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
    return np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the values lie, between two of them by straight line; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
