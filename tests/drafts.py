"""Views, noise and given scorers, for tests of a rule that judges drafts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l2pd_bench.strategies.apd import Apd
from l2pd_bench.strategies.base import Context, Decision, Scorer, StepView

MASK = 0


class Given:
    """A scorer whose logits are given, and that notes what it is asked to judge."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.judged: list[Tensor] = []

    def score(self, view: StepView, tokens: Tensor) -> Tensor:
        """The given logits."""
        self.judged.append(tokens)
        return self.logits


def decide(strategy: Apd, view: StepView, scorer: Scorer, temperature: float) -> Decision:
    """One step of the strategy."""
    asked: list[str | None] = []

    def find(name: str | None) -> Scorer:
        asked.append(name)
        return scorer

    context = Context(8, 8, MASK, 1, 11, "t", temperature=temperature, scorer=find)
    decision = strategy.begin(context)(view)
    assert asked == [strategy.scorer]
    return decision


def gumbel(shape: Sequence[int], seed: int) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -(-(uniform.clamp(min=1e-12)).log()).log().float()


def view_of(logits: Tensor, noise: Tensor | None, temperature: float, canvas: Tensor | None = None) -> StepView:
    """The view the engine makes of these logits (B, N, V); without a canvas all N positions are masks."""
    canvas = torch.full(logits.shape[:2], MASK) if canvas is None else canvas
    tokens = logits.max(-1).indices if noise is None else (logits / temperature + noise).argmax(-1)
    return StepView(
        tokens=tokens,
        confidence=logits.softmax(-1).gather(-1, tokens[..., None])[..., 0],
        logits=logits,
        candidates=canvas[:, -logits.shape[1] :] == MASK,
        canvas=canvas,
        start=canvas.shape[1] - logits.shape[1],
        step=0,
        uniform=lambda: torch.rand(logits.shape[:2]),
        gumbel=None if noise is None else lambda: noise,
    )


def random_logits(shape: Sequence[int], seed: int, spread: float = 1.5) -> Tensor:
    """Logits with MASK at -inf."""
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread
    return logits.index_fill(-1, torch.tensor([MASK]), -math.inf)
