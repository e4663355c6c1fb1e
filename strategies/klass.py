"""KLASS (arXiv 2511.05664): fill what is confident and has stopped changing.

A candidate is ready if its confidence exceeds `tau` and its last `history` divergences
KL(p_t || p_t-1) are all below `kl`. All ready candidates are filled; if there is none,
the most confident one. Divergences are taken in float32 as sum p (log(p + 1e-12) -
log(q + 1e-12)), with the released code's 1e-12 (its float64 resolves no difference that
matters at thresholds above 0.001).

The defaults are the released settings of LLaDA on GSM8K. They are tuned per task
(LLaDA, tau/kl: MATH 0.6/0.01, HumanEval 0.9/0.01, MBPP 0.7/0.01; Dream on GSM8K
0.9/0.001): a row that picks them by task is tuned, and should say so.

Where this differs from the released code:

* The history is per block. There it runs on, so a later block can be ready one forward
  earlier, from a divergence to a forward of the block before; here that is a forward in
  which the cache has just been renewed, and finished rows have left the batch.
* Nothing is ready before `history` divergences exist. There the first divergence is
  taken to a distribution of zeros, and never passes: in the first block that is the same.
* If none is ready, one token is filled; there as many as the schedule has left for the
  step, which is one in all its settings.

The forwards of every cache policy here feed the whole block, so no divergence is 0 for
being stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from l2pd_bench.strategies.base import Context, Decision, Knob, Select, StepView, Strategy
from l2pd_bench.strategies.rules import best, require

_FLOOR = 1e-12  # keeps log(0) finite


@dataclass(frozen=True)
class Klass(Strategy):
    """Commit candidates above `tau` whose last `history` KL divergences are below `kl`, or the best (KLASS)."""

    name: ClassVar[str] = "klass"
    knob: ClassVar[Knob] = Knob("tau", (0.9, 0.8, 0.7, 0.6))  # what the released settings range over
    tau: float = 0.6
    kl: float = 0.015
    history: int = 2

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.tau <= 1.0, "tau", self.tau, "a probability in [0, 1]")
        require(0.0 < self.kl < float("inf"), "kl", self.kl, "a finite number > 0")
        require(self.history >= 1, "history", self.history, "at least 1 divergence")

    def begin(self, context: Context) -> Select:
        """A rule that remembers the last distributions, and for how long each has been calm."""
        before = calm = torch.empty(0)  # (B, N, V) log-probabilities, (B, N) divergences below `kl` in a row

        def select(view: StepView) -> Decision:
            nonlocal before, calm
            p = view.logits.softmax(-1)
            log_p = (p + _FLOOR).log()
            if view.step == 0:
                calm = torch.zeros_like(view.tokens)
            else:
                moved = (p * (log_p - before)).sum(-1)
                calm = torch.where(moved < self.kl, calm + 1, 0)
            before = log_p
            ready = view.candidates & (view.confidence > self.tau) & (calm >= self.history)
            none = ~ready.any(-1, keepdim=True)
            return Decision(ready | (none & best(view.confidence, view.candidates)), accepted=ready)

        return select
