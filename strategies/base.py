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

from torch import Tensor, nn


@dataclass(frozen=True)
class StepView:
    """One forward as a strategy sees it: B samples by the N positions of the active block.

    Committed positions are included: `tokens` and `confidence` there are what the model
    predicts now, not what stands in the canvas. Positions that EoT prediction has cut off
    hold -1 in `canvas`, have confidence 0 and are no candidates.
    """

    tokens: Tensor  # (B, N) int64: the model's pick everywhere (argmax, or the sample at temperature > 0)
    confidence: Tensor  # (B, N) float32: probability of that pick under the untempered softmax
    logits: Tensor  # (B, N, V) float32, MASK at -inf: for entropy, margin, drift or a verifier
    candidates: Tensor  # (B, N) bool: masked positions of the block, the only ones that may be filled
    canvas: Tensor  # (B, L) int64: -1 for padding, prompt, committed tokens, masks; read only
    start: int  # column of the canvas at which the block begins
    step: int  # forwards already spent on this block
    uniform: Callable[[], Tensor]  # -> (B, N) float32 in [0, 1): seeded per sample, step and column
    gumbel: Callable[[], Tensor] | None = None  # -> (B, N, V) float32: the noise that drew `tokens`, if any did
    reference: Tensor | None = None  # (B, N) int64: the reference decode, for a rule with `uses_reference` only


class Decision(NamedTuple):
    """What to do with the block. The engine makes sure every row that is not done commits something."""

    commit: Tensor  # (B, N) bool: fill these; whatever is no candidate is ignored
    tokens: Tensor | None = None  # (B, N) int64: with these, instead of `view.tokens`
    remask: Tensor | None = None  # (B, N) bool: empty these committed positions again
    accepted: Tensor | None = None  # (B, N) bool: what the rule is sure of, if it commits more; EoT prediction asks


Select = Callable[[StepView], Decision]


class Scorer(Protocol):
    """An autoregressive model with the host's tokenizer, opened on a sample; it keeps its own keys and values."""

    def score(self, view: StepView, tokens: Tensor) -> Tensor:
        """Logits (B, N, V) float32 of every position of the block given all that stands left of it, MASK at -inf.

        `tokens`: (B, N) int64, the block as it is to be judged; position j is conditioned on
        the canvas before the block and on `tokens[:, :j]`.
        """
        ...


class Frontier(NamedTuple):
    """Decoding without blocks, left to right from the first mask: what is fed around it (APD, arXiv 2506.00413)."""

    window: int | None  # columns behind the newly committed ones whose keys and values are made anew; None: all
    lookahead: int | None  # masks fed from the first one on; columns further right do not exist; None: all


def _build(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    return build()


def _no_scorer(name: str | None) -> Scorer:
    raise ValueError(f"no model to score with: got {name!r} outside of a decode")


@dataclass(frozen=True)
class Context:
    """What a strategy may know of the run it is part of, and ask of it."""

    block_length: int
    gen_length: int
    mask_id: int
    eot_id: int
    vocab_size: int
    tokenizer_id: str  # hash of the tokenizer: equal ids mean equal token ids
    temperature: float = 0.0
    host: str = ""  # the model's name
    weights_hash: str = ""  # of the model
    # (name, build) -> the module, built once per host, on its device, in evaluation mode. Its calls
    # are counted as auxiliary forwards; the name must tell apart what may be built differently.
    module: Callable[[str, Callable[[], nn.Module]], nn.Module] = _build
    # (name) -> the causal model of that name (a folder or hub id), None: the one that comes with the
    # host; raises UsageError if there is none or its tokenizer is another. Counted as auxiliary.
    scorer: Callable[[str | None], Scorer] = _no_scorer


class Knob(NamedTuple):
    """The parameter that trades quality for speed, and its sensible values; a sweep tries them all."""

    parameter: str
    values: tuple[int | float, ...]  # from slow to fast


class Strategy(Protocol):
    """A frozen dataclass of hyper-parameters and the rule that uses them.

    A rule without memory defines `select`, and may be asked of several samples at once, which
    are at the same step of the same block. One with memory overrides `begin` and returns a
    closure, which is asked of one sample only, from its first step to its last. No rule may
    read a tensor on the host (`.item()`, `if tensor`, boolean indexing): return masks, never
    indices; `rules.py` has the idioms. Validate hyper-parameters in `__post_init__` by
    raising `ValueError`.
    """

    name: ClassVar[str]
    knob: ClassVar[Knob | None] = None  # its speed knob, if it has one
    uses_reference: ClassVar[bool] = False  # it is shown the baseline's decode: an oracle, on no ranking

    def frontier(self) -> Frontier | None:
        """How to decode without blocks; None, as usual, for the harness's blocks."""
        return None

    def fingerprint(self) -> str:
        """A hash of the files that decide what it does, besides its own source; empty if there are none."""
        return ""

    @property
    def has_memory(self) -> bool:
        """Whether its rule is one sample's own, as `begin` is its own."""
        return type(self).begin is not Strategy.begin

    def begin(self, context: Context) -> Select:
        """Called once per sample; returns the rule to call after every forward of it."""
        return self.select

    def select(self, view: StepView) -> Decision:
        """Choose which candidates to fill, from one forward."""
        raise NotImplementedError(f"{type(self).__name__} must define select() or begin()")
