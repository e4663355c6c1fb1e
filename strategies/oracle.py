"""The oracle of Learn2PD (arXiv 2509.25188, "extremely greedy parallel"): as fast as the model allows.

It knows the baseline's decode of the same setting, the reference, and commits every
candidate whose prediction agrees with it. Where none does, the block is stuck: what is
left of it is pasted from the reference, in the same step. So its answers are the
baseline's, and its forwards say how few could have been enough. The authors have it in
their training data only, not among the methods they evaluate; there a stuck block costs
one more forward, which without a commit in between tells nothing new.

No one can decode with it: it needs the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from l2pd_bench.strategies.base import Decision, StepView, Strategy


@dataclass(frozen=True)
class Oracle(Strategy):
    """Commit what agrees with fixed-step's decode; paste the block where nothing does (Learn2PD's upper bound)."""

    name: ClassVar[str] = "oracle"
    uses_reference: ClassVar[bool] = True

    def select(self, view: StepView) -> Decision:
        """The candidates that are predicted as in the reference; all of them, with its tokens, if there are none."""
        assert view.reference is not None  # the engine's promise to a rule that uses it
        right = view.candidates & (view.tokens == view.reference)
        stuck = ~right.any(-1, keepdim=True)
        return Decision(torch.where(stuck, view.candidates, right), view.reference.clamp(min=0))
