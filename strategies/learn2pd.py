"""Learn2PD (arXiv 2509.25188): a small network says which predictions are already final.

A filter is fed the confidences of the block in position order, committed positions
included, and gives each position a logit. A candidate is accepted if its sigmoid is
above `tau`; the most confident candidate is always committed with them, and with
EoT prediction only the accepted ones count as sure. Where EoT prediction has shortened
the block, the view's zeros are the authors' padding.

The filter belongs to one model and one block length (`filter_file.py`); `l2pd-bench
filter` trains one, and for the embedded model one comes with the package. The authors'
default for `tau` is 0.96 for LLaDA and 0.9 for Dream.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from l2pd_bench.strategies.base import Context, Decision, Knob, Select, StepView, Strategy
from l2pd_bench.strategies.filter_file import read_filter, shipped_filter, shipped_filters
from l2pd_bench.strategies.rules import best, require


@dataclass(frozen=True)
class Learn2PD(Strategy):
    """Commit what a trained filter accepts with more than `tau`, and always the most confident one (Learn2PD)."""

    name: ClassVar[str] = "learn2pd"
    # Around the authors' 0.96 (LLaDA) and 0.9 (Dream); no sweep is published
    knob: ClassVar[Knob] = Knob("tau", (0.99, 0.98, 0.96, 0.93, 0.9, 0.8, 0.7))
    tau: float = 0.96
    filter: str | None = None  # a file made by `l2pd-bench filter train`; None: the one shipped for the model

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.tau <= 1.0, "tau", self.tau, "a probability in [0, 1]")

    def fingerprint(self) -> str:
        """The hash of the filter's file; of all that are shipped, where only the model will tell which it is."""
        paths = shipped_filters() if self.filter is None else [Path(self.filter)]
        return " ".join(read_filter(path).sha256 for path in paths)

    def begin(self, context: Context) -> Select:
        """The rule with the filter for this model and block length."""
        stored = read_filter(shipped_filter(context) if self.filter is None else Path(self.filter))
        stored.card.check(
            stored.path, host=context.host, weights_hash=context.weights_hash, block_length=context.block_length
        )
        net = context.module(f"learn2pd filter {stored.sha256}", stored.build)

        def select(view: StepView) -> Decision:
            logits = net(view.confidence, view.candidates, view.step)
            accepted = view.candidates & (logits.sigmoid() > self.tau)
            return Decision(accepted | best(view.confidence, view.candidates), accepted=accepted)

        return select
