"""Slow readings of the training-free strategies: plain Python, one row, from the papers' descriptions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from l2pd_bench.strategies.base import Strategy
from l2pd_bench.strategies.credit import Credit
from l2pd_bench.strategies.dimple import Dimple
from l2pd_bench.strategies.entropy_bound import EntropyBound
from l2pd_bench.strategies.klass import Klass
from l2pd_bench.strategies.local_leap import LocalLeap
from l2pd_bench.strategies.saber import Saber


@dataclass(frozen=True)
class Row:
    """What a rule sees of one row: its block after a forward."""

    masked: list[int]  # positions, ascending
    length: int  # of the block
    step: int
    logits: list[list[float]]
    confidence: list[float]
    tokens: list[int]


Change = tuple[dict[int, int], set[int]]  # positions to fill with tokens, and positions to empty after that
Rule = Callable[[Row], Change]  # made anew for every row and block


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities in float64."""
    powers = [math.exp(x - max(logits)) for x in logits]
    return [x / math.fsum(powers) for x in powers]


def rounded(x: float) -> float:
    """As float32, so that what ties in float32 ties here."""
    return float(torch.tensor(x, dtype=torch.float32))


def best_first(positions: Sequence[int], scores: dict[int, float]) -> list[int]:
    """By descending score, ties by ascending position."""
    return sorted(positions, key=lambda i: (-rounded(scores[i]), i))


def proxy(row: Row, order: str) -> dict[int, float]:
    """Scores of the masked positions."""
    scores = {}
    for i in row.masked:
        p = sorted(softmax(row.logits[i]), reverse=True)
        entropy = -math.fsum(x * math.log(x) for x in p if x > 0)
        scores[i] = {"confidence": row.confidence[i], "margin": p[0] - p[1], "entropy": -entropy}[order]
    return scores


def most_confident(row: Row) -> int:
    """The masked position to fill if nothing else is."""
    return best_first(row.masked, dict(enumerate(row.confidence)))[0]


def picks(row: Row, positions: Sequence[int]) -> Change:
    """Fill these with the model's picks."""
    return {i: row.tokens[i] for i in positions}, set()


def entropy_bound(gamma: float, order: str = "entropy") -> Rule:
    """While the sum of the entropies but the largest stays within gamma, take the next in the order."""

    def rule(row: Row) -> Change:
        h = {i: -x for i, x in proxy(row, "entropy").items()}
        chosen: list[int] = []
        for i in best_first(row.masked, proxy(row, order)):
            total = [h[j] for j in [*chosen, i]]
            if math.fsum(total) - max(total) > gamma:
                break
            chosen.append(i)
        return picks(row, chosen)

    return rule


def klass(tau: float, kl: float, history: int) -> Rule:
    """Confident, and the last `history` divergences small; or the most confident."""
    seen: list[list[list[float]]] = []  # per forward and position

    def rule(row: Row) -> Change:
        seen.append([softmax(x) for x in row.logits])
        ready = []
        for i in row.masked:
            divergences = [
                math.fsum(
                    p * (math.log(p + 1e-12) - math.log(q + 1e-12)) for p, q in zip(now[i], before[i], strict=True)
                )
                for before, now in itertools.pairwise(seen)
            ]
            if (
                row.confidence[i] > tau
                and len(divergences) >= history
                and all(divergence < kl for divergence in divergences[-history:])
            ):
                ready.append(i)
        return picks(row, ready or [most_confident(row)])

    return rule


def local_leap(tau: float, relaxed: float, radius: int) -> Rule:
    """Anchors, what is near one and reaches the relaxed threshold; or the most confident."""

    def rule(row: Row) -> Change:
        anchors = [i for i in row.masked if row.confidence[i] >= tau]
        chosen = []
        for i in row.masked:
            near = any(abs(i - anchor) <= radius for anchor in anchors)
            if row.confidence[i] >= (relaxed if near else tau):
                chosen.append(i)
        return picks(row, chosen or [most_confident(row)])

    return rule


def credit(tau: float, alpha: float, beta: float, gamma: float) -> Rule:
    """A dictionary of credits per position; the threshold rule on the fused logits."""
    credits: dict[int, dict[int, float]] = {}

    def rule(row: Row) -> Change:
        fused = {}
        for i in row.masked:
            mine = credits.setdefault(i, {})
            for token in mine:
                mine[token] *= beta
            p = softmax(row.logits[i])
            top = p.index(max(p))
            mine[top] = mine.get(top, 0.0) + p[top] ** gamma
            fused[i] = [x + alpha * math.log(1 + mine.get(token, 0.0)) for token, x in enumerate(row.logits[i])]
        confidence = {i: max(softmax(x)) for i, x in fused.items()}
        chosen = [i for i in row.masked if confidence[i] >= tau] or best_first(row.masked, confidence)[:1]
        return {i: fused[i].index(max(fused[i])) for i in chosen}, set()

    return rule


def dimple(tau: float, k: int, order: str = "confidence") -> Rule:
    """Above the threshold; or on to the schedule's next point, k tokens per step; the last step fills all."""

    def rule(row: Row) -> Change:
        points = [min(k * s, row.length) for s in range(math.ceil(row.length / k) + 1)]
        if row.step >= len(points) - 2:
            return picks(row, row.masked)
        sure = [i for i in row.masked if row.confidence[i] > tau]
        filled = row.length - len(row.masked)
        goal = next(point for s, point in enumerate(points) if s > row.step and point > filled)
        return picks(row, sure or best_first(row.masked, proxy(row, order))[: goal - filled])

    return rule


def saber(n: int) -> Rule:
    """Above the mean of what was paid, at least n; then give back what sank most, unless the block is full."""
    last: dict[int, float] = {}
    paid: dict[int, float] = {}

    def rule(row: Row) -> Change:
        now = dict(enumerate(row.confidence))
        tau = sum(paid.values()) / len(paid) if paid else 1.0
        chosen = [i for i in row.masked if now[i] > tau]
        if len(chosen) < n:
            chosen = best_first(row.masked, now)[:n]
        paid.update({i: now[i] for i in chosen})
        change = {i: now[i] - last.get(i, 0.0) for i in now}
        last.update(now)
        if len(chosen) == len(row.masked):
            return picks(row, chosen)
        back = min(max(n // 2, math.ceil(len(chosen) / 8)), len(chosen) - 1)
        standing = [i for i in now if i in chosen or i not in row.masked]
        sunk = best_first(standing, {i: -x for i, x in change.items()})[:back]
        return picks(row, chosen)[0], set(sunk)

    return rule


def applied(block: list[int], change: Change, mask_id: int) -> list[int]:
    """A block after a change."""
    fill, empty = change
    return [mask_id if i in empty else fill.get(i, token) for i, token in enumerate(block)]


Case = tuple[Strategy, Callable[[], Rule]]
CASES: dict[str, Case] = {
    **{f"entropy-bound {g}": (EntropyBound(gamma=g), lambda g=g: entropy_bound(g)) for g in (0.0, 0.01, 0.8, 1e9)},
    **{
        f"entropy-bound {g} {o}": (EntropyBound(gamma=g, order=o), lambda g=g, o=o: entropy_bound(g, o))
        for o in ("confidence", "margin")
        for g in (0.3, 1.3)
    },
    **{
        f"klass {t} {d} {h}": (Klass(tau=t, kl=d, history=h), lambda t=t, d=d, h=h: klass(t, d, h))
        for t, d, h in ((0.6, 0.015, 2), (0.3, 0.3, 1), (0.4, 0.5, 3), (0.9, 0.001, 2))
    },
    **{
        f"local-leap {t} {low} {r}": (LocalLeap(tau=t, relaxed=low, radius=r), lambda a=(t, low, r): local_leap(*a))
        for t, low, r in ((0.9, 0.75, 4), (0.7, 0.3, 1), (0.7, 0.2, 2), (0.78, 0.3, 0), (0.7, 0.3, 20))
    },
    **{
        f"credit {t} {a} {b} {c}": (Credit(t, a, b, c), lambda x=(t, a, b, c): credit(*x))
        for t, a, b, c in ((0.9, 0.7, 0.8, 0.2), (0.6, 2.0, 1.0, 1.0), (0.7, 1.0, 0.5, 0.0), (0.78, 0.0, 0.8, 0.2))
    },
    **{
        f"dimple {t} {k} {o}": (Dimple(tau=t, k=k, order=o), lambda t=t, k=k, o=o: dimple(t, k, o))
        for t, k, o in ((0.95, 1, "confidence"), (0.7, 2, "margin"), (0.9, 3, "entropy"), (0.78, 4, "confidence"))
    },
    **{f"saber {n}": (Saber(n=n), lambda n=n: saber(n)) for n in (1, 2, 3, 5, 40)},
}
