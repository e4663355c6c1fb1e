"""EB-Sampler (arXiv 2505.24857): fill as many tokens as a bound on their joint error allows.

The candidates are sorted by an error proxy, best first. With H_1, H_2, ... their
entropies in that order, in nats, the largest prefix with

    sum(H) - max(H) <= gamma

is filled: the left side bounds what is lost by treating the tokens as independent. One
token always passes, since its own bound is 0.

The authors released no code; this follows the paper. Public ports differ from it and
from each other: PC-Sampler's is the paper's rule, d2Cache's takes the running maximum
over the batch instead of over the sorted positions, and SDAR's takes -p log p of the
picked token for the entropy and leaves out the maximum. The default of `gamma` is that
of PC-Sampler's scripts (d2Cache: 0.001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import pad

from l2pd_bench.strategies.base import Decision, Knob, StepView, Strategy
from l2pd_bench.strategies.rules import entropy, rank, require, score

PROXIES = ("entropy", "confidence", "margin")


@dataclass(frozen=True)
class EntropyBound(Strategy):
    """Commit the largest prefix, sorted by `order`, with sum(H) - max(H) <= `gamma` nats (EB-Sampler)."""

    name: ClassVar[str] = "entropy-bound"
    # From d2Cache's default and PC-Sampler's upwards; the paper's own values are not known here
    knob: ClassVar[Knob] = Knob("gamma", (0.001, 0.01, 0.03, 0.1, 0.3, 1.0))
    gamma: float = 0.01
    order: str = "entropy"

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.gamma < float("inf"), "gamma", self.gamma, "a finite number >= 0")
        require(self.order in PROXIES, "order", self.order, f"one of {', '.join(PROXIES)}")

    def select(self, view: StepView) -> Decision:
        """The longest prefix of the sorted candidates whose bound is at most gamma."""
        h = entropy(view.logits)
        place = rank(-h if self.order == "entropy" else score(view, self.order), view.candidates)
        ordered = torch.zeros_like(h).scatter(-1, place, h)  # (B, N), in the order of places
        largest = ordered.cummax(-1).values
        # sum - max grows by min(H_n, the maximum so far): the same number, without cancelling in floats
        steps = torch.minimum(ordered[:, 1:], largest[:, :-1])
        bound = pad(steps, (1, 0)).cumsum(-1)
        count = (bound <= self.gamma).sum(-1, keepdim=True)  # (B, 1): the bound never falls
        return Decision(view.candidates & (place < count))
