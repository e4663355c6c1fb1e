"""Intervals, paired tests and percentiles, on plain numbers.

Knows nothing of records. What cannot be computed is None, never nan. Randomness is
seeded, so equal input always gives equal output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

RESAMPLES = 10_000
CONFIDENCE = 0.95

_AT_ONCE = 1_000_000  # numbers drawn together: bounds the memory, whatever the number of pairs


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's interval of a proportion; None without trials."""
    if trials == 0:
        return None
    found = _binomial_test(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def mcnemar(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """McNemar's exact two-sided p of "both are right equally often"; None without pairs."""
    if not pairs:
        return None
    only_first = sum(first and not second for first, second in pairs)
    only_second = sum(second and not first for first, second in pairs)
    if only_first + only_second == 0:
        return 1.0  # they never differ
    return float(_binomial_test(only_first, only_first + only_second).pvalue)


def ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The ratio of sums, first over second; None where the second is nothing."""
    below = sum(second for _, second in pairs)
    return sum(first for first, _ in pairs) / below if below else None


def bootstrap_ratio(pairs: Sequence[tuple[float, float]]) -> Interval | None:
    """Percentile interval of the ratio of sums by resampling pairs; None with fewer than two pairs."""
    if len(pairs) < 2:
        return None
    import numpy as np

    first, second = np.asarray(pairs, dtype=np.float64).T  # (n,) each
    random = np.random.default_rng(0)
    step = max(1, _AT_ONCE // len(pairs))
    ratios = []
    for done in range(0, RESAMPLES, step):
        chosen = random.integers(len(pairs), size=(min(step, RESAMPLES - done), len(pairs)))  # (resamples, n)
        below = second[chosen].sum(axis=1)
        if not below.all():
            return None  # a resample without any seconds has no ratio
        ratios.append(first[chosen].sum(axis=1) / below)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(ratios), (tail, 1 - tail))
    return Interval(float(low), float(high))


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


def _binomial_test(successes: int, trials: int) -> Any:
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # takes a second: only where it is needed

    return binomtest(successes, trials)
