"""Fast-dLLM's factor rule: the more tokens at once, the surer each must be.

From Theorem 1 of arXiv 2505.22618: greedy parallel decoding of n tokens equals
sequential decoding when (n + 1) * (1 - c) <= 1 for the least confidence c of them;
`factor` replaces the 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from l2pd_bench.strategies.base import Decision, Knob, StepView, Strategy
from l2pd_bench.strategies.rules import rank, require


@dataclass(frozen=True)
class Factor(Strategy):
    """Commit the longest run of sorted confidences with c_n >= 1 - factor / (n + 1) (Fast-dLLM).

    The first is always committed. `compat=true` repeats the released code, which also
    commits the last candidate when it is the only one to fail.
    """

    name: ClassVar[str] = "factor"
    knob: ClassVar[Knob] = Knob("factor", (0.7, 1.0, 1.3, 1.6, 1.9))  # ParallelBench's sweep; Fast-dLLM's own is 1
    factor: float = 1.0
    compat: bool = False

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.factor < float("inf"), "factor", self.factor, "a finite number >= 0")

    def select(self, view: StepView) -> Decision:
        """The longest passing prefix of the candidates, sorted by confidence."""
        length = view.confidence.shape[1]
        place = rank(view.confidence, view.candidates)  # (B, N), 0 = most confident
        ordered = view.confidence.masked_fill(~view.candidates, -1.0).sort(dim=-1, descending=True, stable=True).values
        n = torch.arange(1, length + 1, device=ordered.device)
        bound = torch.where(n == 1, -1.0, 1 - self.factor / (n + 1))
        candidates = view.candidates.sum(-1, keepdim=True)
        passed = (ordered >= bound) & (n <= candidates)
        count = passed.cumprod(-1).sum(-1, keepdim=True)  # (B, 1)
        if self.compat:
            count = torch.where(count == candidates - 1, candidates, count)
        return Decision(view.candidates & (place < count))
