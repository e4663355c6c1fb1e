"""What the engine shows a strategy, what a strategy cannot change by it, and that nothing is read twice on the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l2pd_bench import step
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import Session
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy
from l2pd_bench.strategies.factor import Factor
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.rules import ORDERS
from l2pd_bench.strategies.threshold import Threshold

Prompts = Callable[[int, int], list[list[int]]]


@dataclass(frozen=True)
class Scripted(Strategy):
    """A strategy made of a function of the view."""

    name: ClassVar[str] = "scripted"
    rule: Callable[[StepView], Any]

    def select(self, view: StepView) -> Decision:
        """What the function says."""
        decision: Decision = self.rule(view)
        return decision


@dataclass(frozen=True)
class Witness(Strategy):
    """Another strategy, and the views it is shown (their canvases copied)."""

    name: ClassVar[str] = "witness"
    has_memory: ClassVar[bool] = False  # type: ignore[misc]  # it is asked of all samples together, as the other is
    inner: Strategy
    seen: list[tuple[StepView, Tensor]] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)

    def begin(self, context: Context) -> Select:
        """The other strategy's rule, and a note of the view."""
        self.contexts.append(context)
        select = self.inner.begin(context)

        def note(view: StepView) -> Decision:
            self.seen.append((view, view.canvas.clone()))
            return select(view)

        return note


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_view_is_what_it_says(temperature: float, mini: MiniHost, mini_prompts: Prompts) -> None:
    """The view's shapes, dtypes, candidates, places, step numbers, MASK logit and confidences are as documented."""
    prompts = mini_prompts(3, 51)
    start = max(map(len, prompts))
    witness = Witness(FixedStep(k=3))
    decode(mini, witness, prompts, [0, 1, 2], DecodeSettings(16, 8, cache="dual", temperature=temperature))

    assert [(v.start, v.step) for v, _ in witness.seen] == [(start + s, i) for s in (0, 8) for i in range(3)]
    context, *others = witness.contexts
    assert len(others) == 2  # one for each sample
    assert (context.block_length, context.gen_length, context.vocab_size) == (8, 16, mini.vocab_size)
    assert (context.mask_id, context.eot_id, context.tokenizer_id) == (mini.mask_id, mini.eot_id, mini.tokenizer_id)
    for view, canvas in witness.seen:
        assert canvas.shape == (3, start + 16)
        assert [row[start - len(p) : start] for row, p in zip(canvas.tolist(), prompts, strict=True)] == prompts
        assert torch.equal(view.candidates, canvas[:, view.start : view.start + 8] == mini.mask_id)
        assert (view.tokens.dtype, view.confidence.dtype, view.logits.dtype) == (
            torch.int64,
            torch.float32,
            torch.float32,
        )
        assert view.logits.shape == (3, 8, mini.vocab_size)
        assert bool((view.logits[..., mini.mask_id] == -math.inf).all())
        assert bool((view.tokens != mini.mask_id).all())
        probabilities = view.logits.double().softmax(-1)
        assert torch.allclose(
            view.confidence.double(), probabilities.gather(-1, view.tokens[..., None])[..., 0], atol=1e-6
        )
        assert float(view.confidence.max()) <= 1
        if temperature == 0:
            assert torch.equal(view.tokens, view.logits.argmax(-1))
        assert torch.equal(view.uniform(), view.uniform())
    draws = torch.stack([view.uniform() for view, _ in witness.seen])
    assert draws.shape == (6, 3, 8)
    assert len(draws.unique()) == draws.numel()  # anew in every step, row and column


class MaskLovingSession:
    """Says MASK everywhere."""

    def __init__(self, host: MaskLovingHost) -> None:
        self.host = host

    def forward(self, ids: Tensor, start: Any, block: Any, **others: Any) -> Tensor:
        """MASK by far, then the lowest ids in turn."""
        size = block[0].stop - block[0].start
        logits = -torch.arange(float(self.host.vocab_size)).repeat(len(ids), size, 1)
        logits[..., self.host.mask_id] = 100.0
        return logits

    def move(self, source: int, target: int) -> None:
        """Nothing is kept."""


class MaskLovingHost(AnalyticHost):
    """A model that wants nothing but MASK."""

    def open(self, padding: Any, length: int, *, cached: bool, slots: int | None = None) -> Session:
        """Begin with some rows."""
        return MaskLovingSession(self)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("strategy", [FixedStep(k=2), Threshold(tau=0.3), Factor()], ids=str)
def test_mask_is_never_committed(strategy: Strategy, temperature: float) -> None:
    """A model that predicts MASK gets its next choice, with MASK left out of the confidence."""
    host, witness = MaskLovingHost(), Witness(strategy)
    settings = DecodeSettings(8, 4, temperature=temperature)
    samples = decode(host, witness, [[2]] * 20, list(range(20)), settings).samples

    assert not any(host.mask_id in s.output_ids for s in samples)
    if temperature == 0:
        assert samples[0].output_ids == [1] * 8
        assert float(witness.seen[0][0].confidence[0, 0]) == pytest.approx(1 - math.exp(-1), rel=1e-4)


def test_changing_the_view_in_place_changes_nothing(mini: MiniHost, mini_prompts: Prompts) -> None:
    """A rule that computes in place on `candidates`, as `keep &= ...` does, decodes like one that does not."""

    def careless(view: StepView) -> Decision:
        keep = view.candidates
        keep &= view.confidence > 2.0  # none, so that every step is forced
        return Decision(keep)

    careful = Scripted(lambda v: Decision(v.candidates & (v.confidence > 2.0)))
    prompts, settings = mini_prompts(2, 52), DecodeSettings(16, 16)
    wanted = decode(mini, careful, prompts, [0, 0], settings).samples

    assert decode(mini, Scripted(careless), prompts, [0, 0], settings).samples == wanted


def test_a_rule_on_the_canvas_sees_no_padding(analytic: AnalyticHost) -> None:
    """A rule that looks for EoT in the canvas decodes a row alone as it does beside a longer one."""

    def rule(view: StepView) -> Decision:
        ended = (view.canvas == analytic.eot_id).any(-1, keepdim=True)
        return Decision(view.candidates & (ended | (torch.arange(8) == view.step)))

    prompts, settings = [analytic.encode("copy a b c"), analytic.encode("copy a b c d e")], DecodeSettings(8, 8)
    alone = decode(analytic, Scripted(rule), prompts[:1], [0], settings).samples[0]

    assert decode(analytic, Scripted(rule), prompts, [0, 0], settings).samples[0] == alone


class NoReads(TorchDispatchMode):
    """Raises on every operation that brings a value to the host, unless `allowed`."""

    FORBIDDEN: ClassVar[set[str]] = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique"}

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allowed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the operation's name, and at indexing by a mask."""
        name = func.__name__.split(".")[0]
        masks = name.startswith("index") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for a in args if isinstance(a, list | tuple) for i in a
        )
        if (name.strip("_") in {n.strip("_") for n in self.FORBIDDEN} or masks) and not self.allowed:
            raise AssertionError(f"host read by {name}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("eot", ["decode", "stop", "predict"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize(
    ("strategy", "temperature"),
    [
        *((FixedStep(k=4, order=order), 0.0) for order in ORDERS),
        (Threshold(), 0.0),
        (Factor(), 0.0),
        (Threshold(), 0.8),
    ],
    ids=str,
)
def test_one_host_read_per_step(
    strategy: Strategy,
    temperature: float,
    cache: str,
    eot: str,
    mini: MiniHost,
    mini_prompts: Prompts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tensors are read on the host in `step.read` alone, once per forward where the rule chooses something."""
    guard, counts, read, hidden = NoReads(), {"reads": 0, "forwards": 0}, step.read, mini.model.hidden

    def counted_read(*args: Any, **named: Any) -> list[step.RowRead]:
        counts["reads"] += 1
        guard.allowed = True
        rows = read(*args, **named)
        guard.allowed = False
        return rows

    def counted_hidden(*args: Any) -> Tensor:
        counts["forwards"] += 1
        return hidden(*args)

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not guard.allowed:
                raise AssertionError(f"host read by Tensor.{name}")
            return original(self, *args, **kwargs)

        return method

    monkeypatch.setattr(step, "read", counted_read)
    monkeypatch.setattr(mini.model, "hidden", counted_hidden)
    prompts = mini_prompts(3, 53)
    settings = DecodeSettings(16, 8, cache=cache, eot=eot, temperature=temperature)
    reading = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
    with monkeypatch.context() as patch, guard:
        for name in reading:
            patch.setattr(Tensor, name, guarded(name))
        decode(mini, strategy, prompts, [0, 1, 2], settings)

    assert 0 < counts["reads"] <= counts["forwards"]


@pytest.mark.parametrize(
    "reading",
    [
        lambda v: v.confidence.max().item(),
        lambda v: v.tokens.tolist(),
        lambda v: bool(v.candidates.any()),
        lambda v: v.confidence[v.candidates],
        lambda v: torch.nonzero(v.candidates),
        lambda v: torch.equal(v.tokens, v.tokens),
    ],
)
def test_the_guard_above_sees_reads(
    reading: Callable[[StepView], Any], mini: MiniHost, mini_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strategy that reads a tensor in any of the usual ways is caught by the check above."""
    reader = Scripted(lambda v: (reading(v), Decision(v.candidates))[1])
    with pytest.raises(AssertionError, match="host read"):
        test_one_host_read_per_step(reader, 0.0, "none", "decode", mini, mini_prompts, monkeypatch)
