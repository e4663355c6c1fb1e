"""A row beside the baseline, in words: faster or not, and what is known of its loss.

Only puts numbers into a sentence; how they were come by is `stats.py`'s affair.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from l2pd_bench import stats

MARGIN = 1.0  # points of accuracy that count as no loss, unless a user says otherwise
SIGNIFICANT = 0.05

Loss = Literal["none", "small", "lossy", "undecided", "unknown"]
Speed = Literal["faster", "slower", "undecided", "unknown"]


class Verdict(NamedTuple):
    """What can be said at 95 % confidence."""

    speed: Speed
    loss: Loss
    text: str
    samples: int | None = None  # about how many would decide, where the loss is undecided


class Compared(NamedTuple):
    """The items that both decoded: how many, and on how many just one of them was right."""

    pairs: int
    only_ours: int
    only_base: int


def judge(speedup: stats.Interval | None, compared: Compared | None, p: float | None, margin: float) -> Verdict:
    """The verdict on a row. `p`: McNemar's of `compared`, adjusted for other rows if there are; `margin` in points.

    No measurable loss: the 95 % interval (Tango) of the difference in right answers lies above
    -margin, and reaches 0. Lossy: significantly worse, by what may be
    more than the margin. Undecided: neither can be said with so few samples.
    """
    speed, told = _speed(speedup)
    if compared is None or p is None:
        return Verdict(speed, "unknown", f"{told}, loss not measured")
    interval = stats.paired_difference(compared.only_ours, compared.only_base, compared.pairs)
    if interval is None:
        return Verdict(speed, "unknown", f"{told}, loss not measured")
    points = 100 * (compared.only_ours - compared.only_base) / compared.pairs
    is_worse = p < SIGNIFICANT and points < 0
    if 100 * interval.low > -margin:
        if is_worse or interval.high < 0:
            return Verdict(speed, "small", f"{told}, loss within {margin:g} pt")
        return Verdict(speed, "none", f"{told}, no measurable loss (margin {margin:g} pt)")
    if is_worse:
        return Verdict(speed, "lossy", f"{told}, lossy ({points:+.1f} pt)")
    penalty = p / stats.mcnemar(compared.only_ours, compared.only_base)
    needed = stats.samples_needed(compared.only_ours, compared.only_base, compared.pairs, margin / 100, penalty)
    return Verdict(speed, "undecided", f"{told}, undecided: needs {about(needed)} samples", needed)


def _speed(speedup: stats.Interval | None) -> tuple[Speed, str]:
    if speedup is None:
        return "unknown", "speed not measured"
    if speedup.low > 1:
        return "faster", "faster"
    if speedup.high < 1:
        return "slower", "slower"
    return "undecided", "speed undecided"


def about(count: int | None) -> str:
    """A number of samples in words, to two digits that count, upwards; None is more than one can decode."""
    if count is None:
        return "very many"
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return f"about {-(-count // unit) * unit}"
