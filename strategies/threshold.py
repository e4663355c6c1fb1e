"""Fast-dLLM's confidence threshold (arXiv 2505.22618, Algorithm 1, line 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from l2pd_bench.strategies.base import Decision, Knob, StepView, Strategy
from l2pd_bench.strategies.rules import best, require


@dataclass(frozen=True)
class Threshold(Strategy):
    """Commit every candidate with confidence >= `tau`, and always the most confident one (Fast-dLLM)."""

    name: ClassVar[str] = "threshold"
    # ParallelBench sweeps 1 to 0.5; Fast-dLLM's own is 0.9
    knob: ClassVar[Knob] = Knob("tau", (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5))
    tau: float = 0.9

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.tau <= 1.0, "tau", self.tau, "a probability in [0, 1]")

    def select(self, view: StepView) -> Decision:
        """Candidates at or above the threshold, and the best."""
        sure = view.confidence >= self.tau
        return Decision(sure | best(view.confidence, view.candidates), accepted=sure)
