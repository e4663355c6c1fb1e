"""What `l2pd-bench check` looks through: a host that hides nothing, a witness, and a second decoder.

They serve to find mistakes in a strategy. What counts as one is not known here.
"""

from __future__ import annotations

import linecache
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from inspect import getsourcefile, getsourcelines, isfunction
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from l2pd_bench import noise
from l2pd_bench.auxiliary import Auxiliary
from l2pd_bench.decoded import Decoded
from l2pd_bench.engine import STEP_CAP
from l2pd_bench.errors import BenchError, PluginError
from l2pd_bench.hosts.base import Host, Session
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.strategies.base import Context, Decision, Frontier, Select, StepView, Strategy

SPECIAL = 8  # ids below are left to masks, EoT and their like


class ProbeSession:
    """Predictions that are a hash of the row's own tokens, counted from the right: padding changes nothing.

    Every commit changes all confidences of its row, and a token also depends on the one
    left of it. An EoT follows the answer, whose length depends on the prompt.
    """

    def __init__(self, host: MiniHost, padding: Sequence[int], length: int, slots: int) -> None:
        self.host, self.padding, self.length = host, list(padding), length
        self.kept = torch.zeros(slots, length, dtype=torch.int64)
        self.columns, self.from_right = torch.arange(length), length - torch.arange(length)  # (L,)

    def forward(
        self,
        ids: Tensor,
        starts: Sequence[int],
        blocks: Sequence[slice],
        *,
        rows: Sequence[int],
        lengths: Sequence[int],
        slot: int = 0,
    ) -> Tensor:
        """See `Session.forward`."""
        padding = [self.padding[row] for row in rows]
        for i, (first, fed) in enumerate(zip(starts, ids, strict=True)):
            kept = self.kept[slot + i, first : first + len(fed)]
            kept.copy_(fed[: len(kept)])
        held, here = self.kept[slot : slot + len(ids)], self.columns  # (B, L)
        ends = torch.tensor(list(lengths))[:, None]
        has_begun = here >= torch.tensor(padding)[:, None]
        word = noise.mix(held * 1000 + self.from_right) * (has_begun & (here < ends))  # (B, L)
        state = noise.mix(word.sum(-1, keepdim=True))  # (B, 1)
        is_prompt = (has_begun & (held == self.host.tokenizer.assistant)).cumsum(-1) == 0
        prompt = noise.mix((word * is_prompt).sum(-1, keepdim=True))
        masks = self.length - 1 - is_prompt.sum(-1, keepdim=True)
        end = masks - 4 - (prompt & 0xFFFF) % (masks - 8)  # (B, 1), from the right
        at = torch.tensor([list(range(b.start, b.stop)) for b in blocks]).clamp(max=self.length - 1)  # (B, N)
        place, left = self.from_right[at], held.gather(1, at - 1)
        choice = noise.mix(prompt + place * 1000 + left)  # (B, N)
        tokens = SPECIAL + (choice & 0xFFFF) % (self.host.vocab_size - SPECIAL)
        sharpness = 2 + 10 * noise.uniform(noise.mix(state + place))
        is_end = place <= end
        tokens = torch.where(is_end, self.host.eot_id, tokens)
        sharpness = torch.where(is_end, 6 + sharpness / 2, sharpness)
        logits = torch.zeros(*tokens.shape, self.host.vocab_size)
        return logits.scatter_(-1, tokens[..., None], sharpness[..., None])

    def move(self, source: int, target: int) -> None:
        """See `Session.move`."""
        self.kept[target] = self.kept[source]


class ProbeHost(MiniHost):
    """`mini` by its tokenizer, but every row is predicted exactly as it would be alone.

    A network's rounding depends on the batch, so that a difference would prove nothing.
    """

    def open(self, padding: Sequence[int], length: int, *, cached: bool, slots: int | None = None) -> Session:
        """Begin with some rows."""
        return ProbeSession(self, padding, length, slots or len(padding))


def probe_host(mini: Host) -> Host:
    """The probe that speaks for `mini`."""
    assert isinstance(mini, MiniHost)
    return cast(Host, ProbeHost(mini.name, mini.model, mini.tokenizer, mini.weights_hash))


class Witness:
    """Stands between the engine and a strategy, and keeps what passed; the strategy sees no difference."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy, self.name, self.uses_reference = strategy, strategy.name, strategy.uses_reference
        self.has_memory = strategy.has_memory
        self.stage = ""  # begin, select, decision (returned), tokens (refused here)
        self.rule: object = type(strategy)  # where its code begins
        self.context: Context | None = None
        self.views: list[StepView] = []
        self.chosen = self.outside = 0  # positions chosen; those that were no candidates
        self.turns = self.idle = 0  # steps of open rows; those in which nothing was chosen
        self.remasks = False
        self.changed: str | None = None  # the field of the view that was written to

    def frontier(self) -> Frontier | None:
        """The strategy's."""
        return self.strategy.frontier()

    def begin(self, context: Context) -> Select:
        """The strategy's rule, with every call observed."""
        self.stage, self.context = "begin", context
        rule = self.strategy.begin(context)
        self.rule = rule

        def select(view: StepView) -> Decision:
            before = {name: value.clone() for name, value in tensors(view)}
            self.views.append(view)
            self.stage = "select"
            decision = rule(view)
            self.stage = "decision"
            for name, value in tensors(view):
                if not torch.equal(value, before[name]):
                    self.changed = self.changed or name
            self._note(before["candidates"], decision, context)
            return decision

        return select

    def _note(self, candidates: Tensor, decision: Decision, context: Context) -> None:
        if not isinstance(decision, Decision):
            raise PluginError(f"select() must return a Decision, got {type(decision).__name__}; return Decision(mask)")
        commit = decision.commit
        if not isinstance(commit, Tensor) or commit.dtype != torch.bool or commit.shape != candidates.shape:
            return  # the engine refuses it
        is_open = candidates.any(-1)
        self.chosen += int(commit.sum())
        self.outside += int((commit & ~candidates).sum())
        self.turns += int(is_open.sum())
        self.idle += int((is_open & ~(commit & candidates).any(-1)).sum())
        if isinstance(decision.remask, Tensor):
            self.remasks |= bool(decision.remask.any())
        if isinstance(decision.tokens, Tensor) and decision.tokens.shape == commit.shape:
            filled = decision.tokens[commit & candidates]
            bad = filled[(filled < 0) | (filled >= context.vocab_size) | (filled == context.mask_id)]
            if len(bad):
                self.stage = "tokens"
                raise PluginError(
                    f"tokens: got id {int(bad[0])} for a position to fill, expected 0 to {context.vocab_size - 1} and "
                    f"not MASK ({context.mask_id}); leave such positions out of `commit`"
                )


def tensors(view: StepView) -> Iterator[tuple[str, Tensor]]:
    """The fields of a view that are tensors, by name."""
    for f in fields(view):
        value = getattr(view, f.name)
        if isinstance(value, Tensor):
            yield f.name, value


def on_meta(view: StepView) -> StepView:
    """The view on the device that has shapes and no data: whatever reads it raises."""
    values = {f.name: getattr(view, f.name) for f in fields(view)}
    drawn: Callable[[], Tensor] = lambda: torch.empty(view.tokens.shape, device="meta")  # noqa: E731
    return StepView(**{**values, "uniform": drawn, **{name: value.to("meta") for name, value in tensors(view)}})


def begin_on_meta(strategy: Strategy, context: Context) -> Select:
    """The strategy's rule with its own models on the device that has no data."""
    return strategy.begin(
        replace(context, module=lambda name, build: build().to("meta"), scorer=lambda name: _MetaScorer())
    )


class _MetaScorer:
    """Scores of the right shape."""

    def score(self, view: StepView, tokens: Tensor) -> Tensor:
        """See `Scorer.score`."""
        return torch.empty_like(view.logits)


def begin_alone(host: Host, strategy: Strategy, context: Context, prompt: Sequence[int]) -> Select:
    """The strategy's rule for one prompt, with models of its own that have seen nothing yet."""
    own = Auxiliary(host, 0, len(prompt) + context.gen_length)
    return strategy.begin(replace(context, module=own.module, scorer=own.scorer))


@torch.inference_mode()
def plain_loop(
    host: Host,
    strategy: Strategy,
    prompt: Sequence[int],
    seed: int,
    context: Context,
    reference: Sequence[int] | None = None,
) -> Decoded:
    """Decode one prompt by the definition, without the engine; `reference` is for an oracle.

    The canvas is a Python list, remade as a tensor for every step and predicted by a
    session that has seen nothing before.
    """
    n, mask_id = context.block_length, context.mask_id
    canvas, nfe, forced = [*prompt, *[mask_id] * context.gen_length], 0, 0
    select = begin_alone(host, strategy, context, prompt)
    for start in range(len(prompt), len(canvas), n):
        block, step = range(start, start + n), 0
        while any(canvas[c] == mask_id for c in block) and step < STEP_CAP * n:
            ids = torch.tensor([canvas])
            session = host.open([0], len(canvas), cached=False)
            logits = session.forward(ids, [0], [slice(start, start + n)], rows=[0], lengths=[len(canvas)]).float()
            logits[..., mask_id] = -torch.inf
            best, tokens = logits.max(-1)
            confidence = (best - logits.logsumexp(-1)).exp()
            key = noise.keys(torch.tensor([seed]), 2, torch.arange(n) + start - len(prompt), step)
            view = StepView(
                tokens=tokens,
                confidence=confidence,
                logits=logits,
                candidates=ids[:, start : start + n] == mask_id,
                canvas=ids,
                start=start,
                step=step,
                uniform=lambda key=key: noise.uniform(key),  # type: ignore[misc]
                reference=None if reference is None else torch.tensor([reference[start - len(prompt) :][:n]]),
            )
            picks, sure = tokens[0].tolist(), confidence[0].tolist()
            commit, given, remask, _ = select(view)
            masked = [c for c in block if canvas[c] == mask_id]
            chosen = [c for c in masked if bool(commit[0, c - start])]
            fill = {c: picks[c - start] if given is None else int(given[0, c - start]) for c in chosen}
            if not chosen:
                c = max(masked, key=lambda c: (sure[c - start], -c))
                fill, forced = {c: picks[c - start]}, forced + 1
            for c in block:
                if c in fill:
                    canvas[c] = fill[c]
                elif remask is not None and bool(remask[0, c - start]):
                    canvas[c] = mask_id
            step, nfe = step + 1, nfe + 1
    return Decoded(canvas[len(prompt) :], nfe_full=nfe, forced_commits=forced)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Pin the random numbers that belong to nobody, and put them back afterwards."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        yield
    random.setstate(state)


def where_raised(error: BaseException, file: str | None) -> str | None:
    """The last line of `file` that an error passed through, with its text.

    Without a file: the line at which it was raised, wherever that is.
    """
    while isinstance(error, BenchError) and error.__cause__ is not None:
        error = error.__cause__
    if file is None and isinstance(error, SyntaxError) and error.filename:
        return place(error.filename, error.lineno or 1)
    every = traceback.extract_tb(error.__traceback__)
    frames = [f for f in every if not f.filename.startswith("<") and file in (None, f.filename)]
    return place(frames[-1].filename, frames[-1].lineno or 1) if frames else None


def where_defined(rule: object, cls: type) -> str | None:
    """The line at which a strategy's rule begins; that of its class if the rule is no function."""
    function = getattr(rule, "__func__", rule)
    thing: Any = function if isfunction(function) else cls
    file = getsourcefile(thing)
    return place(file, getsourcelines(thing)[1]) if file else None


def place(file: str, line: int) -> str:
    """`file:line: text`, the path relative to here if the file is below."""
    path, here = Path(file).resolve(), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    linecache.checkcache(file)
    return f"{shown}:{line}: {linecache.getline(file, line).strip()}"
