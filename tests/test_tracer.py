"""Traces: what they say happened is what happened, and nobody pays for them who has not asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from l2pd_bench import registry
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.engine import decode
from l2pd_bench.errors import PluginError, RecordError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.step import Told
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.saber import Saber
from l2pd_bench.strategies.threshold import Threshold
from l2pd_bench.tasks.base import Item
from l2pd_bench.trace import Trace, TraceFile, TraceStep, encode_trace, read_traces
from l2pd_bench.tracer import Batch, Tracer, trace_batch

Prompts = Callable[[int, int], list[list[int]]]
OWN = [entry.name for entry in registry.catalog("strategies") if entry.distribution == registry.OWN_DISTRIBUTION]
SETTINGS = [(cache, eot) for cache in ("none", "prefix", "dual") for eot in ("decode", "stop", "predict")]
CASES = [
    *((spec, cache, eot, 0.0) for spec in OWN for cache, eot in SETTINGS),
    *(("apd:schedule=native", "none", eot, 0.0) for eot in ("decode", "stop", "predict")),
    *(("apd:schedule=native,W=2,M=5", "none", eot, 0.0) for eot in ("decode", "stop", "predict")),
    *((spec, "dual", "predict", 1.0) for spec in ("saber:n=8", "apd:variant=release", "fixed-step:k=3")),
]


@dataclass(frozen=True)
class Scripted(Strategy):
    """A strategy made of a function of the view."""

    name: ClassVar[str] = "scripted"
    rule: Callable[[StepView], Decision]

    def select(self, view: StepView) -> Decision:
        """What the function says."""
        return self.rule(view)


def only(view: StepView, *places: int) -> Tensor:
    """These places, in every row."""
    mask = torch.zeros_like(view.candidates)
    mask[:, list(places)] = True
    return mask


def slow_reader(steps: Iterable[TraceStep]) -> list[int]:
    """The output by the words of the format alone: put, empty, and forget what lies behind the end."""
    canvas: dict[int, int] = {}
    for step in steps:
        assert not set(step.columns) & set(canvas), "filled what was filled"
        assert set(step.remasked) <= set(canvas), "emptied what was empty"
        assert all(step.block[0] <= column < step.block[1] for column in (*step.columns, *step.remasked))
        canvas |= dict(zip(step.columns, step.tokens, strict=True))
        canvas = {column: token for column, token in canvas.items() if column not in step.remasked}
        canvas = {column: token for column, token in canvas.items() if column < step.end}
    assert sorted(canvas) == list(range(step.end)), "something is still masked"
    return [canvas[column] for column in range(step.end)]


def batch_of(decoded: BatchDecoded, prompts: Sequence[list[int]], references: list[list[int]] | None = None) -> Batch:
    """A decoded batch as it is traced; the items' names are their places."""
    items = [Item(f"item/{i}", f"prompt {i}", "") for i in range(len(prompts))]
    return Batch(items, prompts, range(len(prompts)), references, [s.output_ids for s in decoded.samples], len(items))


@pytest.mark.parametrize(("spec", "cache", "eot", "temperature"), CASES)
def test_a_trace_leads_to_the_output(
    spec: str, cache: str, eot: str, temperature: float, mini: MiniHost, mini_prompts: Prompts
) -> None:
    """For every strategy, cache and EoT policy a trace replays to the output, with one step for each forward."""
    strategy, _ = registry.load_strategy(spec)
    size = 3 if strategy.frontier() is None else 1  # a frontier is decoded alone
    prompts, seeds = mini_prompts(size, 5), range(size)
    length = 64 if spec == "learn2pd" else 16  # its filter is for blocks of 32
    settings = DecodeSettings(length, 32 if spec == "learn2pd" else 8, cache, eot, temperature)
    references = None
    if strategy.uses_reference:
        references = [s.output_ids for s in decode(mini, FixedStep(), prompts, seeds, settings).samples]
    plain = decode(mini, strategy, prompts, seeds, settings, references)
    traces = trace_batch(mini, strategy, settings, batch_of(plain, prompts, references))

    for trace, sample in zip(traces, plain.samples, strict=True):
        assert slow_reader(trace.steps) == sample.output_ids
        assert len(trace.steps) == sample.nfe_full + sample.nfe_window
        assert trace.steps[-1].end + sample.cut_tokens == length or eot == "stop"
        assert trace.vocabulary == {t: mini.decode([t]) for step in trace.steps for t in step.tokens}
        assert all(0.0 < c <= 1.0 for step in trace.steps for c in step.confidences)


@dataclass(frozen=True)
class Spy(Strategy):
    """Another strategy, and what it was shown."""

    name: ClassVar[str] = "spy"
    inner: Strategy
    seen: list[tuple[list[int], list[float], int]] = field(default_factory=list)  # canvas, confidence, start

    def begin(self, context: Context) -> Select:
        """The other's rule."""
        rule = self.inner.begin(context)

        def select(view: StepView) -> Decision:
            self.seen.append((view.canvas[0].tolist(), view.confidence[0].tolist(), view.start))
            return rule(view)

        return select


@pytest.mark.parametrize("eot", ["decode", "predict"])
@pytest.mark.parametrize("inner", [Threshold(0.95), Saber(n=8), FixedStep(k=3)], ids=lambda s: s.name)
def test_steps_are_the_canvases_that_a_rule_was_shown(
    inner: Strategy, eot: str, mini: MiniHost, mini_prompts: Prompts
) -> None:
    """Columns, tokens, confidences and remasks of a step are the difference of what is shown before and after it."""
    prompt = mini_prompts(4, 8)[3]  # a random one, of which the model is not sure
    spy, settings = Spy(inner), DecodeSettings(32, 16, eot=eot)
    tracer = Tracer(mini, 1, settings.gen_length)
    decode(mini, spy, [prompt], [0], settings, None, tracer)

    assert len(spy.seen) == len(tracer.steps[0]) > 2
    for (before, sure, start), (after, _, _), step in zip(spy.seen, spy.seen[1:], tracer.steps[0], strict=False):
        first = len(prompt)
        end = after.index(-1) if -1 in after else len(after)
        pairs = list(enumerate(zip(before[first:end], after[first:end], strict=True)))
        filled = [i for i, (old, new) in pairs if old == mini.mask_id != new]
        assert step.columns == filled and filled
        assert step.tokens == [after[first + i] for i in filled]
        assert step.confidences == [sure[first + i - start] for i in filled]
        assert step.remasked == [i for i, (old, new) in pairs if old != mini.mask_id == new]
        assert step.end == end - first


def test_remasked_columns_by_hand(analytic: AnalyticHost) -> None:
    """What a rule empties stands as remasked in its step, and is filled in a later one."""
    a, b = 20, 21

    def rule(view: StepView) -> Decision:
        if view.step == 0:
            return Decision(only(view, 0, 1), tokens=torch.full_like(view.tokens, a))
        if view.step == 1:
            return Decision(only(view, 2), tokens=torch.full_like(view.tokens, a), remask=only(view, 0, 2, 3))
        return Decision(view.candidates, tokens=torch.full_like(view.tokens, b))

    tracer = Tracer(analytic, 1, 4)
    decode(analytic, Scripted(rule), [analytic.encode("copy a b")], [0], DecodeSettings(4, 4), None, tracer)

    assert [(s.columns, s.tokens, s.remasked) for s in tracer.steps[0]] == [
        ([0, 1], [a, a], []),
        ([2], [a], [0]),
        ([0, 3], [b, b], []),
    ]


@pytest.mark.parametrize(("eot", "ends"), [("decode", [8, 8, 8]), ("stop", [8, 3]), ("predict", [3, 3])])
def test_ends_by_hand(eot: str, ends: list[int], analytic: AnalyticHost) -> None:
    """`end` falls to behind the EoT: at once where it is predicted, and where all before it is filled under `stop`."""

    def rule(view: StepView) -> Decision:
        eots = torch.full_like(view.tokens, analytic.eot_id)
        places = only(view, *((2, 7) if view.step == 0 else (0, 1) if view.step == 1 else range(8)))
        return Decision(places, tokens=eots if view.step == 0 else torch.full_like(view.tokens, 20))

    tracer = Tracer(analytic, 1, 8)
    settings = DecodeSettings(8, 8, eot=eot)
    (sample,) = decode(analytic, Scripted(rule), [analytic.encode("copy a b")], [0], settings, None, tracer).samples

    assert [step.end for step in tracer.steps[0]] == ends
    assert slow_reader(tracer.steps[0]) == sample.output_ids
    assert tracer.steps[0][0].columns == ([2] if eot == "predict" else [2, 7])  # what is cut at once was never there


class Reads(TorchFunctionMode):
    """Counts what brings a tensor's content to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        name = getattr(func, "__name__", "")
        if name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "numpy", "cpu", "nonzero"):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def test_nobody_pays_without_an_observer(
    mini: MiniHost, mini_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an observer the host reads one tensor for each forward; with one, forwards and counts are the same."""
    prompts, settings = mini_prompts(3, 6), DecodeSettings(32, 16, "dual", "predict")
    forwards = 0
    opened = mini.open

    def watched(*args: Any, **how: Any) -> Any:
        session = opened(*args, **how)
        forward = session.forward

        def count(*rest: Any, **named: Any) -> Tensor:
            nonlocal forwards
            forwards += 1
            return forward(*rest, **named)

        session.forward = count  # type: ignore[method-assign]
        return session

    monkeypatch.setattr(mini, "open", watched)
    with Reads() as reads:
        plain = decode(mini, Saber(), prompts, [0] * 3, settings)
    alone, forwards = forwards, 0
    told: list[Told] = []
    observed = decode(mini, Saber(), prompts, [0] * 3, settings, None, told.append)

    assert reads.calls == {"tolist": alone}
    assert forwards == alone > 3
    assert observed.samples == plain.samples
    assert len(told) == sum(s.nfe_full + s.nfe_window for s in plain.samples)


def test_other_tokens_the_second_time(mini: MiniHost, mini_prompts: Prompts) -> None:
    """A strategy that draws from a generator of its own is refused with the sample's name, and so is another output."""
    prompts, settings = mini_prompts(2, 7), DecodeSettings(16, 16)
    generator = torch.Generator().manual_seed(0)

    def rule(view: StepView) -> Decision:
        drawn = torch.randint(20, 200, view.tokens.shape, generator=generator)
        return Decision(view.candidates, tokens=drawn)

    plain = decode(mini, Scripted(rule), prompts, [0, 1], settings)
    with pytest.raises(PluginError, match=r"'scripted': got other tokens for item/0, item/1 .* expected the same"):
        trace_batch(mini, Scripted(rule), settings, batch_of(plain, prompts))

    batch = batch_of(decode(mini, FixedStep(), prompts, [0, 1], settings), prompts)
    batch = batch._replace(output_ids=[batch.output_ids[0], [*batch.output_ids[1][:-1], 3]])
    with pytest.raises(PluginError, match=r"other tokens for item/1 when"):
        trace_batch(mini, FixedStep(), settings, batch)


def test_prompt_and_prefix(mini: MiniHost, mini_prompts: Prompts) -> None:
    """A trace's prompt is the item's, and what the answer begins with."""
    prompts, settings = mini_prompts(1, 9), DecodeSettings(8, 8)
    batch = batch_of(decode(mini, Threshold(), prompts, [0], settings), prompts)
    (trace,) = trace_batch(mini, Threshold(), settings, batch._replace(items=[Item("x", "why?", "", prefix="As")]))

    assert (trace.doc_id, trace.prompt, trace.gen_length) == ("x", "why?\nAs", 8)


class TestFile:
    def made(self, host: Host, doc_id: str) -> Trace:
        """A trace of two steps."""
        step = TraceStep(block=(0, 2), columns=[0], tokens=[7], confidences=[0.5], remasked=[], end=2)
        last = replace(step, columns=[1])
        return Trace(doc_id=doc_id, prompt="p", gen_length=2, vocabulary={7: host.decode([7])}, steps=[step, last])

    def test_round_trip(self, mini: MiniHost, tmp_path: Path) -> None:
        """What is appended is read back; the last of a doc_id counts."""
        first, other = self.made(mini, "a"), self.made(mini, "b")
        again = replace(first, prompt="q")
        with TraceFile(tmp_path) as file:
            file.append([first, other])
            file.append([again])
            assert file.done == {"a", "b"}

        assert read_traces(tmp_path) == {"a": again, "b": other}

    @pytest.mark.parametrize("left", [1, 40, -1])
    def test_torn_line(self, left: int, mini: MiniHost, tmp_path: Path) -> None:
        """A torn last line is no trace, and is cut off when the file is next written."""
        whole, torn = encode_trace(self.made(mini, "a")), encode_trace(self.made(mini, "b"))
        (tmp_path / "trace.jsonl").write_bytes(whole + torn[:left])

        assert list(read_traces(tmp_path)) == ["a"]
        with TraceFile(tmp_path) as file:
            assert file.done == {"a"}
            file.append([self.made(mini, "c")])
        assert list(read_traces(tmp_path)) == ["a", "c"]

    def test_no_trace(self, mini: MiniHost, tmp_path: Path) -> None:
        """A line that is no trace is refused with its number, and the file is left as it is."""
        data = encode_trace(self.made(mini, "a")) + b'{"doc_id": "b"}\n'
        (tmp_path / "trace.jsonl").write_bytes(data)
        with pytest.raises(RecordError, match=r"trace.jsonl, line 2: got no trace"):
            TraceFile(tmp_path)

        assert (tmp_path / "trace.jsonl").read_bytes() == data

    def test_nothing_is_made_of_nothing(self, tmp_path: Path) -> None:
        """A file that gets no trace is never made."""
        with TraceFile(tmp_path) as file:
            assert file.done == set()

        assert list(tmp_path.iterdir()) == []

    def test_json_keys(self, mini: MiniHost) -> None:
        """The format has these fields and no others: readers elsewhere rely on them."""
        trace = asdict(self.made(mini, "a"))

        assert set(trace) == {"trace_version", "doc_id", "prompt", "gen_length", "vocabulary", "steps"}
        assert set(trace["steps"][0]) == {"block", "columns", "tokens", "confidences", "remasked", "end"}
