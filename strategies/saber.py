"""Saber (arXiv 2510.18165): a threshold that follows the model's confidence, and a way back.

Each forward: (1) candidates above tau, the mean confidence at which positions were
committed so far (1 if none), are filled, and at least the `n` most confident ones.
(2) Of the F tokens so filled and those committed before, the max(n // 2, ceil(F / 8))
whose confidence changed for the worst since the last forward are emptied again, F - 1 at
most. So every forward gains a token, and the rule ends by itself.

This follows the released code where the paper is silent or says otherwise:

* tau: the paper writes the mean over the unmasked tokens; the code keeps the confidence
  of a token that is emptied again, until its position is filled anew. So does this.
* The change is of the probability of what the model would pick now, not of the token
  that stands. In the first forward it is the probability itself.
* The forward that fills the last mask empties nothing.

And differs from it in two:

* The code decodes one block of 256, so mean, changes and emptying reach over the whole
  answer. Here all three are of the active block, and begin anew with it: what lies
  before is final, because caches and the stop rule build on it.
* Where fewer than `n` masks are left, the code also refills positions that stand. Here
  only masks are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from l2pd_bench.strategies.base import Context, Decision, Knob, Select, StepView, Strategy
from l2pd_bench.strategies.rules import best, rank, require


@dataclass(frozen=True)
class Saber(Strategy):
    """Commit above the mean confidence of past commits, at least `n`, then empty what has sunk most (Saber)."""

    name: ClassVar[str] = "saber"
    knob: ClassVar[Knob] = Knob("n", (1, 2, 4, 8, 16))  # the released code has 2
    n: int = 2

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(self.n >= 1, "n", self.n, "at least 1 token per step")

    def begin(self, context: Context) -> Select:
        """A rule that remembers the block's last confidences and those of its commits."""
        last = paid = torch.empty(0)  # (B, N) confidence at the last forward; when last committed, -1 if never

        def select(view: StepView) -> Decision:
            nonlocal last, paid
            now, masked = view.confidence, view.candidates
            if view.step == 0:
                last, paid = torch.zeros_like(now), torch.full_like(now, -1.0)
            # 1) fill
            known = paid >= 0
            mean = paid.where(known, 0.0).sum(-1, keepdim=True) / known.sum(-1, keepdim=True)  # 0 / 0 if none
            filled = (masked & (now > mean.nan_to_num(1.0))) | best(now, masked, self.n)
            # 2) empty
            count = filled.sum(-1, keepdim=True)  # F, (B, 1)
            back = ((count + 7) // 8).clamp(min=self.n // 2).minimum(count - 1)
            open_after = (masked & ~filled).any(-1, keepdim=True)
            sunk = (rank(last - now, filled | ~masked) < back) & open_after
            last, paid = now, torch.where(filled, now, paid)
            return Decision(filled & ~sunk, remask=sunk)

        return select
