"""Adaptive parallel decoding (APD, arXiv 2506.00413): a small autoregressive model judges drafts from left to right.

Every forward of the host drafts all masks of the block. An autoregressive model with the
same tokenizer then scores the drafts, each given all that stands left of it, and the two
are mixed (equation 8), position by position:

    target = R * host's logits + (1 - R) * scorer's logits
    commit the first mask's draft, and those after it while draft = pick of target

The masks are filled from left to right, and always with drafts: a rejected one is
drafted again. R=1 commits everything that was drafted; at R=0 a draft counts only where
the scorer picks the same.

`variant=paper` (Algorithm 1) picks from the target as the draft was picked: at
temperature T both take the most likely token after adding the *same* Gumbel noise to
logits / T, so that two similar distributions mostly agree; at T=0 both are greedy.

`variant=release` is what the authors' code does: the noise of the pick is dropped
(it is the target's most likely token, whatever T), and as T enters the draft twice, that
is a sample at temperature T². At T=0 the two variants are the same. The released code
also cuts drafts at top-p 0.95, which is not done here.

`schedule=block` decodes in the harness's blocks with its caches, as every other rule.
`schedule=native` has the paper's own: no blocks; `M` masks are fed beyond what is filled
(none: all), and keys and values are made anew for the new tokens and the `W` columns up
to the first of them (none: all). The defaults are the paper's faster preset, the other is
R=0.6, W=32, M=200. The presets are for T=0.2 and Dream with Qwen2.5-0.5B.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from l2pd_bench.strategies.base import Context, Decision, Frontier, Knob, Select, StepView, Strategy
from l2pd_bench.strategies.rules import require

VARIANTS, SCHEDULES = ("paper", "release"), ("block", "native")


@dataclass(frozen=True)
class Apd(Strategy):
    """Commit the first mask and what follows while a mixture of host and autoregressive `scorer` agrees (APD).

    `scorer`: a causal model's folder or hub id, none for the one that comes with the
    host. `W` and `M` are for `schedule=native` only.
    """

    name: ClassVar[str] = "apd"
    knob: ClassVar[Knob] = Knob("R", (0.1, 0.3, 0.5, 0.7, 0.9))  # the paper's sweep of R
    R: float = 0.7
    W: int | None = 16
    M: int | None = 100
    variant: str = "paper"
    schedule: str = "block"
    scorer: str | None = None

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        require(0.0 <= self.R <= 1.0, "R", self.R, "a weight in [0, 1]")
        require(self.W is None or self.W >= 1, "W", self.W, "at least 1 column, or none for all")
        require(self.M is None or self.M >= 1, "M", self.M, "at least 1 mask, or none for all")
        require(self.variant in VARIANTS, "variant", self.variant, f"one of {', '.join(VARIANTS)}")
        require(self.schedule in SCHEDULES, "schedule", self.schedule, f"one of {', '.join(SCHEDULES)}")
        for name in ("W", "M"):  # an option without effect would be read as a result of it
            value, default = getattr(self, name), getattr(type(self), name)
            idle = self.schedule == "block" and value != default
            require(not idle, name, value, "schedule=native with it, as schedule=block does not use it")

    def fingerprint(self) -> str:
        """Of the files in the scorer's folder, if it is one."""
        folder = None if self.scorer is None else Path(self.scorer).expanduser()
        if folder is None or not folder.is_dir():
            return ""
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
        return " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)

    def frontier(self) -> Frontier | None:
        """The window and lookahead of the native schedule."""
        return Frontier(self.W, self.M) if self.schedule == "native" else None

    def begin(self, context: Context) -> Select:
        """The rule, with its scorer opened on the batch."""
        scorer = context.scorer(self.scorer)

        def select(view: StepView) -> Decision:
            draft = self.draft(view, context.temperature)
            n = draft.shape[1]
            block = view.canvas[:, view.start : view.start + n]
            block = F.pad(block, (0, n - block.shape[1]), value=-1)  # EoT prediction may have cut the canvas
            judged = scorer.score(view, torch.where(view.candidates, draft, block))
            agrees = draft == self.pick(self.mix(view.logits, judged), view, context.temperature)
            is_first = view.candidates & (view.candidates.cumsum(-1) == 1)
            run = (agrees | is_first | ~view.candidates).cumprod(-1).bool()  # (B, N)
            return Decision(view.candidates & run, None if draft is view.tokens else draft)

        return select

    def draft(self, view: StepView, temperature: float) -> Tensor:
        """What the host proposes: (B, N) int64."""
        if self.variant == "release" and view.gumbel is not None:
            return (view.logits / temperature + temperature * view.gumbel()).argmax(-1)
        return view.tokens

    def mix(self, host: Tensor, scorer: Tensor) -> Tensor:
        """Logits of the target, not normalised, which no pick depends on: (B, N, V) twice to (B, N, V) float32."""
        if self.R in (0.0, 1.0):  # 0 * -inf would be NaN
            return host if self.R == 1.0 else scorer
        return self.R * host + (1 - self.R) * scorer

    def pick(self, target: Tensor, view: StepView, temperature: float) -> Tensor:
        """What the target proposes: (B, N) int64; the same operations as the engine's, so that R=1 agrees exactly."""
        if self.variant == "paper" and view.gumbel is not None:
            return (target / temperature + view.gumbel()).argmax(-1)
        return target.max(-1).indices
