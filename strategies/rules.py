"""Idioms that strategies share: masks, scores, checks; none of them reads a tensor on the host.

Everywhere, ties go to the lowest position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2pd_bench.strategies.base import StepView

ORDERS = ("confidence", "margin", "entropy", "left-to-right", "random")


def require(ok: bool, name: str, got: object, expected: str) -> None:
    """Raise the ValueError of a hyper-parameter `name` that is not `ok`."""
    if not ok:
        raise ValueError(f"{name}: got {got!r}, expected {expected}")


def rank(score: Tensor, among: Tensor) -> Tensor:
    """Place of each position when sorted by `score`, best first: (B, N) int64.

    `score`: (B, N) float; positions outside `among` (B, N) bool come last.
    """
    order = _only(score, among).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(-1)


def best(score: Tensor, among: Tensor, k: int = 1) -> Tensor:
    """The `k` best-scored positions of each row among `among`: (B, N) bool."""
    if k == 1:
        pick = _only(score, among).argmax(-1, keepdim=True)
        return torch.zeros_like(among).scatter_(1, pick, True) & among
    return among & (rank(score, among) < k)


def _only(score: Tensor, among: Tensor) -> Tensor:
    """Scores with everything outside `among` below anything inside it, -inf included."""
    return torch.where(among, score.clamp(min=torch.finfo(score.dtype).min), -torch.inf)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each position's distribution, in nats: (B, N, V) to (B, N) float32."""
    p = logits.softmax(-1)
    return -torch.xlogy(p, p).sum(-1)


def score(view: StepView, order: str) -> Tensor:
    """How eagerly each position should be filled under one of `ORDERS`: (B, N) float32, larger first."""
    if order == "confidence":
        return view.confidence
    if order == "margin":  # p(1) - p(2)
        top = view.logits.softmax(-1).topk(2, -1).values
        return top[..., 0] - top[..., 1]
    if order == "entropy":
        return -entropy(view.logits)
    if order == "left-to-right":
        return -torch.arange(view.tokens.shape[1], device=view.tokens.device).expand_as(view.tokens).float()
    return view.uniform()
