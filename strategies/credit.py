"""CreditDecoding (arXiv 2510.06133): what was predicted before counts towards the threshold.

Each position of the block holds a credit C per token, 0 at first. In every forward

    C <- beta * C, then C[top] += p[top] ** gamma for the most likely token
    fused = logits + alpha * log(1 + C)

and the threshold rule is applied to the fused logits: commit what has a fused
probability of at least `tau`, and the best; the token is the fused argmax.

This follows the authors' dInfer, with its defaults of alpha, beta and gamma; tau is the
default of `threshold`. The variant without parameters (alpha = beta = 1 - share of
masks, gamma = 1) is not in dInfer and not here. Where this differs from dInfer:

* It gives credit at masked positions only; here at filled ones too, where none is read.
* It also fills what is within 1e-5 of the best; here ties go to the lowest position.
* At a temperature it samples from the fused logits; here the token is always their
  argmax, as a strategy is not told the temperature. Compare it at temperature 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from l2pd_bench.strategies.base import Context, Decision, Knob, Select, StepView, Strategy
from l2pd_bench.strategies.rules import best, require


@dataclass(frozen=True)
class Credit(Strategy):
    """Threshold `tau` on logits raised by `alpha` log(1 + credit of earlier predictions) (CreditDecoding)."""

    name: ClassVar[str] = "credit"
    # As for `threshold`, which it refines; dInfer has 0.9
    knob: ClassVar[Knob] = Knob("tau", (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5))
    tau: float = 0.9
    alpha: float = 0.7
    beta: float = 0.8
    gamma: float = 0.2

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.tau <= 1.0, "tau", self.tau, "a probability in [0, 1]")
        require(0.0 <= self.alpha < float("inf"), "alpha", self.alpha, "a finite number >= 0")
        require(0.0 <= self.beta <= 1.0, "beta", self.beta, "a share in [0, 1]")
        require(0.0 <= self.gamma < float("inf"), "gamma", self.gamma, "a finite number >= 0")

    def begin(self, context: Context) -> Select:
        """A rule that keeps the credits of the block."""
        credit = torch.empty(0)  # (B, N, V)

        def select(view: StepView) -> Decision:
            nonlocal credit
            p, top = most_likely(view.logits)
            credit = torch.zeros_like(view.logits) if view.step == 0 else credit * self.beta
            credit = credit.scatter_add(-1, top[..., None], p.pow(self.gamma)[..., None])
            confidence, tokens = most_likely(view.logits + self.alpha * credit.log1p())
            sure = view.candidates & (confidence >= self.tau)
            return Decision(sure | best(confidence, view.candidates), tokens, accepted=sure)

        return select


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probability and id of each position's most likely token: (B, N) float32 and int64."""
    peak, tokens = logits.max(-1)
    return (peak - logits.logsumexp(-1)).exp(), tokens
