"""The strategy contract: masks in, masks out, never a read of a tensor on the host.

A strategy decides, after every forward, which masked positions of the active block to
fill. It knows nothing of the model, the KV cache, the clock, the stop rule or other
strategies: the engine owns those, so that two rows of a leaderboard differ in the
strategy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class StepView:
    """One forward as a strategy sees it: B rows by the N positions of the active block.

    Committed positions are included: `tokens` and `confidence` there are what the model
    predicts now, not what stands in the canvas.
    """

    tokens: Tensor  # (B, N) int64: the model's pick everywhere (argmax, or the sample at temperature > 0)
    confidence: Tensor  # (B, N) float32: probability of that pick under the untempered softmax
    logits: Tensor  # (B, N, V) float32, MASK at -inf: for entropy, margin, drift or a verifier
    candidates: Tensor  # (B, N) bool: masked positions of the block, the only ones that may be filled
    canvas: Tensor  # (B, L) int64: -1 for padding, prompt, committed tokens, masks; read only
    start: int  # column of the canvas at which the block begins
    step: int  # forwards already spent on this block
    rows: tuple[int, ...]  # which rows of the batch as it began these are: rows that ended are dropped
    uniform: Callable[[], Tensor]  # -> (B, N) float32 in [0, 1): seeded per sample, step and column


class Decision(NamedTuple):
    """What to do with the block. The engine makes sure every row that is not done commits something."""

    commit: Tensor  # (B, N) bool: fill these; whatever is no candidate is ignored
    tokens: Tensor | None = None  # (B, N) int64: with these, instead of `view.tokens`
    remask: Tensor | None = None  # (B, N) bool: empty these committed positions again


Select = Callable[[StepView], Decision]


@dataclass(frozen=True)
class Context:
    """What a strategy may know of the run it is part of."""

    block_length: int
    gen_length: int
    mask_id: int
    eot_id: int
    vocab_size: int
    tokenizer_id: str  # hash of the tokenizer: equal ids mean equal token ids


class Strategy(Protocol):
    """A frozen dataclass of hyper-parameters and the rule that uses them.

    A stateless rule defines `select`. One with memory overrides `begin` and returns a
    closure, which lives for one batch; rows may be dropped between blocks, so what it
    remembers per row is rebuilt at `view.step == 0`, or looked up by `view.rows`. No rule
    may read a tensor on the host (`.item()`, `if tensor`, boolean indexing): return masks,
    never indices; `rules.py` has the idioms. Validate hyper-parameters in `__post_init__` by raising `ValueError`.
    """

    name: ClassVar[str]

    def begin(self, context: Context) -> Select:
        """Called once per batch; returns the rule to call after every forward."""
        return self.select

    def select(self, view: StepView) -> Decision:
        """Choose which candidates to fill, from one forward."""
        raise NotImplementedError(f"{type(self).__name__} must define select() or begin()")
