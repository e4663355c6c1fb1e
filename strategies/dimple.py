"""Dimple's confident decoding (arXiv 2505.16990): a threshold, with a schedule to fall back on.

All candidates with a confidence above `tau` are filled. If there is none, the schedule
decides how many: enough to reach its next point, best first by `order`. The last step
of the schedule fills what is left.

Dimple has no blocks: its schedule is a line from 1 to 0.001 over the whole answer. Here
it is one of `k` tokens per step within each block, so its points are k, 2k, ... filled
positions. As in the code, the fallback of step s goes to the first point beyond what is
filled, and at least to point s + 1: a row that lags behind for a threshold that passed
few catches up. With k=1 a fallback is always one token, and the rule is
`threshold` with > for >=.

Where this differs from the released code:

* It rounds down on its line to 0.001, so in fallbacks alone it fills 7, 8, 8, 9 of 32 at
  k=8, and the last two at once at k=1; here points are whole tokens.
* Its README's example fills at random in a fallback (`alg="origin"`, order=random here);
  the default here is by confidence, as for the other rules. `tau` is the README's.
* With its orders by margin and by entropy it holds that score against the threshold;
  here that is always the probability of the pick, which at a temperature both read from
  the untempered distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from l2pd_bench.strategies.base import Decision, Knob, StepView, Strategy
from l2pd_bench.strategies.rules import ORDERS, rank, require, score


@dataclass(frozen=True)
class Dimple(Strategy):
    """Commit all above `tau`; if none, as many as a schedule of `k` per step demands, by `order` (Dimple)."""

    name: ClassVar[str] = "dimple"
    # Around its README's 0.95, down to where `threshold` is swept
    knob: ClassVar[Knob] = Knob("tau", (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5))
    tau: float = 0.95
    k: int = 1
    order: str = "confidence"

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.tau <= 1.0, "tau", self.tau, "a probability in [0, 1]")
        require(self.k >= 1, "k", self.k, "at least 1 token per step")
        require(self.order in ORDERS, "order", self.order, f"one of {', '.join(ORDERS)}")

    def select(self, view: StepView) -> Decision:
        """Candidates above the threshold, or the schedule's."""
        if (view.step + 1) * self.k >= view.tokens.shape[1]:
            return Decision(view.candidates)
        sure = view.candidates & (view.confidence > self.tau)
        filled = (~view.candidates).sum(-1, keepdim=True)  # (B, 1)
        point = (filled // self.k + 1).clamp(min=view.step + 1) * self.k
        scheduled = view.candidates & (rank(score(view, self.order), view.candidates) < point - filled)
        return Decision(torch.where(sure.any(-1, keepdim=True), sure, scheduled), accepted=sure)
