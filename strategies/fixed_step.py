"""Fixed-step decoding: the baseline every speedup is measured against.

A fixed number of tokens per step, chosen by a score (LLaDA, arXiv 2502.09992: the
"low-confidence remasking" of its reference sampler with `order=confidence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from l2pd_bench.strategies.base import Decision, Knob, StepView, Strategy
from l2pd_bench.strategies.rules import ORDERS, best, require, score


@dataclass(frozen=True)
class FixedStep(Strategy):
    """Commit `k` tokens per step, best-scored first (LLaDA's reference sampler)."""

    name: ClassVar[str] = "fixed-step"
    knob: ClassVar[Knob] = Knob("k", (1, 2, 4, 8, 16, 32))  # ParallelBench's grid of tokens per step
    k: int = 1
    order: str = "confidence"

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(self.k >= 1, "k", self.k, "at least 1 token per step")
        require(self.order in ORDERS, "order", self.order, f"one of {', '.join(ORDERS)}")

    def select(self, view: StepView) -> Decision:
        """The step's quota of candidates, by score."""
        return Decision(best(score(view, self.order), view.candidates, self.quota(view.step, view.tokens.shape[1])))

    def quota(self, step: int, length: int) -> int:
        """Tokens to commit at `step` in a block of `length`: equal shares, extras in the first steps."""
        steps = -(-length // self.k)
        share, extra = divmod(length, steps)
        return share + (step < extra)
