"""Fill peaks of confidence: neighbours depend on each other most, so that the surest of them goes first."""

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import max_pool1d

from l2pd_bench.strategies.base import Decision, StepView, Strategy
from l2pd_bench.strategies.rules import best


@dataclass(frozen=True)
class Peaks(Strategy):
    """Commit every candidate with confidence >= `tau` that no candidate within `reach` surpasses."""

    name: ClassVar[str] = "peaks"
    tau: float = 0.5
    reach: int = 1

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        if not 0.0 <= self.tau <= 1.0:
            raise ValueError(f"tau: got {self.tau}, expected a probability in [0, 1]")
        if self.reach < 0:
            raise ValueError(f"reach: got {self.reach}, expected at least 0 positions")

    def select(self, view: StepView) -> Decision:
        """Peaks above the threshold, and the best."""
        score = view.confidence.masked_fill(~view.candidates, 0.0)
        around = max_pool1d(score[:, None], 2 * self.reach + 1, stride=1, padding=self.reach)[:, 0]
        is_peak = view.candidates & (score >= self.tau) & (score == around)
        return Decision(is_peak | best(score, view.candidates))
