"""LocalLeap (arXiv 2510.07081): near a confident token, a lower threshold is enough.

Anchors are the candidates with a confidence of at least `tau`. A candidate within
`radius` positions of an anchor is filled at `relaxed` instead; without an anchor the
most confident one is filled.

This follows the released `get_transfer_index`, as mirrored by a third party, and its
defaults. The paper's abstract speaks of a consistency that decays with the distance
from an anchor; in the code, and here, it is one step: inside the radius or not. Tokens
committed in earlier forwards are no anchors, nor are those of other blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import max_pool1d

from l2pd_bench.strategies.base import Decision, Knob, StepView, Strategy
from l2pd_bench.strategies.rules import best, require


@dataclass(frozen=True)
class LocalLeap(Strategy):
    """Commit at `tau`, at `relaxed` within `radius` of what reaches `tau`, and always the best (LocalLeap)."""

    name: ClassVar[str] = "local-leap"
    # From `threshold`, which it is where both are 0.9, past the released 0.75
    knob: ClassVar[Knob] = Knob("relaxed", (0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5))
    tau: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.tau <= 1.0, "tau", self.tau, "a probability in [0, 1]")
        require(0.0 <= self.relaxed <= self.tau, "relaxed", self.relaxed, f"a probability of at most tau={self.tau}")
        require(self.radius >= 0, "radius", self.radius, "a number of positions >= 0")

    def select(self, view: StepView) -> Decision:
        """Anchors, their confident neighbours, and the best."""
        anchors = view.candidates & (view.confidence >= self.tau)
        radius = min(self.radius, view.tokens.shape[1])  # more reaches no further
        near = max_pool1d(anchors.float(), 2 * radius + 1, stride=1, padding=radius) > 0  # (B, N)
        chosen = view.candidates & near & (view.confidence >= self.relaxed)
        return Decision(chosen | best(view.confidence, view.candidates), accepted=chosen)
