"""One step on a canvas: what is seen, what is committed, where the canvas ends now, and the one read.

Tensors in, tensors out, nothing is read on the host but in `read`. Rows may stand at
different blocks; each sees and commits in its own. When a step is taken and what it costs
is the loop's affair (`engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from l2pd_bench import noise
from l2pd_bench.canvas import PAD, Canvas
from l2pd_bench.errors import PluginError
from l2pd_bench.hosts.base import Host
from l2pd_bench.strategies.base import Decision, StepView, Strategy

_SAMPLING, _ORDER = 1, 2  # independent streams of random numbers


class Prediction(NamedTuple):
    """What the model says of the columns from each row's block's first on, C of them."""

    logits: Tensor  # (B, C, V) float32, MASK at -inf
    tokens: Tensor  # (B, C) int64: the pick
    confidence: Tensor  # (B, C) float32: its probability under the untempered softmax


class Applied(NamedTuple):
    """What a decision came to."""

    ids: Tensor  # (B, N) int64: the block now
    chosen: Tensor  # (B, N) bool: filled
    accepted: Tensor  # (B, N) bool: of these, what the rule itself was sure of
    overridden: Tensor | None  # (B, 1) bool: other tokens than the model's picks were filled in; None: in no row


class RowRead(NamedTuple):
    """One row after a step, on the host."""

    ids: list[int]  # of the block
    end: int  # the column behind its last
    is_stuck: bool | None  # nothing was chosen; None: the ids tell
    overridden: bool
    is_broken: bool  # a confidence is no number


class Told(NamedTuple):
    """One row after a step, as an observer of the decode is told. Nothing in it is to be changed."""

    row: int  # its place among the prompts
    block: slice  # columns of the canvas
    ids: list[int]  # of the block, up to where the row ends
    confidence: Tensor  # (C,) float32, C >= len(ids): of the model's picks from the block's first column on
    start: int  # the column of the first mask of the generation region
    end: int  # the column behind the row's last: EoT policies "predict" and "stop" lower it


Observer = Callable[[Told], None]


def predict(
    host: Host, canvas: Canvas, logits: Tensor, at: Sequence[tuple[int, int]], temperature: float
) -> Prediction:
    """Picks and confidences in float32, the same for every strategy; `at`: each row's first column, and its step.

    A pick is the most likely token (the lowest id among equals), or at a temperature a
    sample by the Gumbel-max trick; MASK is never picked.
    """
    logits = logits.float()
    logits.select(-1, host.mask_id).fill_(-torch.inf)
    if temperature > 0:
        told = torch.tensor(at, device=logits.device)  # (B, 2)
        offsets = told[:, :1] - canvas.start + torch.arange(logits.shape[1], device=logits.device)
        keys = noise.keys(canvas.seeds, _SAMPLING, offsets, told[:, 1])
        tokens = (logits / temperature + noise.gumbel(keys, logits.shape[-1])).argmax(-1)
        picked = logits.gather(-1, tokens[..., None]).squeeze(-1)
        return Prediction(logits, tokens, (picked - logits.logsumexp(-1)).exp())
    # Of logsumexp's own operations, the largest is not looked for again. A softmax takes fewer, but rounds the
    # surest otherwise: among those equal to 1 the order of commits, and with it NFE, would be another.
    picked, tokens = logits.max(-1)
    total = (logits - picked[..., None]).exp_().sum(-1).log_().add_(picked)
    return Prediction(logits, tokens, (picked - total).exp_())


def observe(
    host: Host,
    canvas: Canvas,
    seen: Prediction,
    block_ids: Tensor,
    at: Sequence[tuple[int, int]],
    temperature: float,
    *,
    may_end: bool,
) -> StepView:
    """The view of the blocks, as if all rows were where the first is; `split` gives each what is its own.

    Where rows `may_end` inside a block, the columns behind an end are positions of confidence 0.
    """
    n = block_ids.shape[1]
    logits, tokens, confidence = seen
    missing = n - tokens.shape[1]
    if missing < 0:
        logits, tokens, confidence = logits[:, :n], tokens[:, :n], confidence[:, :n]
    if missing > 0:
        logits, tokens = F.pad(logits, (0, 0, 0, missing)), F.pad(tokens, (0, missing), value=host.eot_id)
        logits[:, -missing:, host.mask_id] = -torch.inf
        confidence = F.pad(confidence, (0, missing))
    (start, step), offset = at[0], at[0][0] - canvas.start
    return StepView(
        tokens=tokens,
        confidence=confidence.masked_fill(block_ids == PAD, 0.0) if may_end else confidence,
        logits=logits,
        candidates=block_ids == host.mask_id,
        canvas=canvas.ids,
        start=start,
        step=step,
        uniform=partial(_uniform, canvas.seeds, offset, n, step),
        gumbel=partial(_gumbel, canvas.seeds, offset, n, step, logits.shape[-1]) if temperature > 0 else None,
        reference=None if canvas.reference is None else _reference(canvas.reference, offset, n),
    )


def split(
    view: StepView, canvas: Canvas, at: Sequence[tuple[int, int]], temperature: float, *, alone: bool
) -> list[StepView]:
    """The views to choose from: rows side by side at the same place and step together, or each `alone`."""
    count = len(at)
    edges = [i for i in range(count) if i == 0 or alone or at[i] != at[i - 1]]
    if len(edges) == 1:
        return [view]
    views = []
    for a, b in zip(edges, [*edges[1:], count], strict=True):
        (start, step), n = at[a], view.tokens.shape[1]
        offset, seeds = start - canvas.start, canvas.seeds[a:b]
        views.append(
            StepView(
                tokens=view.tokens[a:b],
                confidence=view.confidence[a:b],
                logits=view.logits[a:b],
                candidates=view.candidates[a:b],
                canvas=view.canvas[a:b],
                start=start,
                step=step,
                uniform=partial(_uniform, seeds, offset, n, step),
                gumbel=partial(_gumbel, seeds, offset, n, step, view.logits.shape[-1]) if temperature > 0 else None,
                reference=None if canvas.reference is None else _reference(canvas.reference[a:b], offset, n),
            )
        )
    return views


def checked(strategy: Strategy, view: StepView, decision: object) -> Decision:
    """The decision on a view, its masks of the right kind; PluginError otherwise (metadata only)."""
    if not isinstance(decision, Decision):
        raise PluginError(f"strategy '{strategy.name}': select must return a Decision, got {type(decision).__name__}")
    shape = view.tokens.shape
    for name, got in zip(Decision._fields, decision, strict=True):
        if got is None and name != "commit":
            continue
        dtype = torch.int64 if name == "tokens" else torch.bool
        if not isinstance(got, Tensor) or got.dtype != dtype or got.shape != shape:
            found = f"{got.dtype} {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
            raise PluginError(
                f"strategy '{strategy.name}': {name} must be {dtype} of shape {tuple(shape)}, got {found}"
            )
    return decision


def join(views: Sequence[StepView], decisions: Sequence[Decision]) -> Decision:
    """The decisions on all rows, in their order."""
    if len(decisions) == 1:
        return decisions[0]
    pairs = list(zip(views, decisions, strict=True))
    tokens = remask = accepted = None
    if any(d.tokens is not None for d in decisions):
        tokens = torch.cat([v.tokens if d.tokens is None else d.tokens for v, d in pairs])
    if any(d.remask is not None for d in decisions):
        remask = torch.cat([torch.zeros_like(d.commit) if d.remask is None else d.remask for d in decisions])
    if any(d.accepted is not None for d in decisions):
        accepted = torch.cat([d.commit if d.accepted is None else d.accepted for d in decisions])
    return Decision(torch.cat([d.commit for d in decisions]), tokens, remask, accepted)


def commit(view: StepView, decision: Decision, block_ids: Tensor, host: Host) -> Applied:
    """What the blocks (B, N) become: a decision clipped to candidates; remasking reaches committed positions only."""
    candidates = block_ids == host.mask_id  # anew: a rule may have worked in place on those it was shown
    chosen = decision.commit & candidates
    tokens, overridden = view.tokens, None
    if decision.tokens is not None:
        chosen = chosen & (decision.tokens != host.mask_id)  # to fill in MASK is to fill in nothing
        overridden = (chosen & (decision.tokens != tokens)).any(-1, keepdim=True)
        tokens = decision.tokens
    accepted = chosen if decision.accepted is None else chosen & decision.accepted
    filled = torch.where(chosen, tokens, block_ids)
    if decision.remask is not None:
        filled.masked_fill_(decision.remask & ~candidates & (block_ids != PAD), host.mask_id)
    return Applied(filled, chosen, accepted, overridden)


def force(view: StepView, block_ids: Tensor, stuck: Sequence[bool], host: Host) -> Applied:
    """What the blocks (B, N) become once each of the `stuck` rows has its most confident candidate filled."""
    candidates = block_ids == host.mask_id
    first = torch.where(candidates, view.confidence, -1.0).argmax(-1, keepdim=True)  # (B, 1)
    is_stuck = torch.tensor(list(stuck), device=first.device)[:, None]
    pick = torch.where(is_stuck, view.tokens.gather(1, first), block_ids.gather(1, first))
    none = torch.zeros_like(candidates)
    return Applied(block_ids.scatter(1, first, pick), none | is_stuck, none, None)


def cut(host: Host, canvas: Canvas, seen: Prediction, applied: Applied, starts: Sequence[int]) -> None:
    """EoT prediction (Learn2PD, arXiv 2509.25188): end rows in which something was filled behind a predicted EoT.

    Rule 1: behind the first EoT that was accepted now. Rule 2, where there is none: behind
    the most confident position (the first among equals) that is still masked and predicted
    to be EoT, among all columns this forward has predicted. What is cut off never returns.
    """
    first = torch.tensor(list(starts), device=seen.tokens.device)[:, None]  # (B, 1)
    offsets = torch.arange(max(seen.tokens.shape[1], applied.ids.shape[1]), device=seen.tokens.device)
    nowhere, (_, n), ahead = canvas.length, applied.ids.shape, seen.tokens.shape[1]
    is_end = applied.accepted & (applied.ids == host.eot_id)
    accepted = torch.where(is_end, first + offsets[:n], nowhere).amin(-1)
    columns = (first + offsets[:ahead]).clamp(max=nowhere - 1)  # a row may have fewer columns than were predicted
    within = first + offsets[:ahead] < nowhere
    is_hint = within & (canvas.ids.gather(1, columns) == host.mask_id) & (seen.tokens == host.eot_id)
    hint, place = seen.confidence.masked_fill(~is_hint, -1.0).max(-1)
    hinted = torch.where(hint >= 0, first[:, 0] + place, nowhere)
    end = torch.where(accepted < nowhere, accepted, hinted) + 1
    canvas.cut(torch.where(applied.chosen.any(-1), end, nowhere))


def read(
    canvas: Canvas, starts: Sequence[int], applied: Applied, confidence: Tensor | None, *, alone: bool
) -> list[RowRead]:
    """The only read of tensors on the host in a step; of `confidence`, if it is asked, whether it is all numbers.

    `alone`: the ids of the blocks tell all else, as no row was cut and each block began with masks only.
    """
    ids = canvas.columns(starts, applied.ids.shape[1])
    more = [] if alone else [canvas.ends[:, None], ~applied.chosen.any(-1, keepdim=True)]
    more += [] if applied.overridden is None else [applied.overridden]
    more += [] if confidence is None else [confidence.isnan().any(-1, keepdim=True)]
    n, found = ids.shape[1], []
    for row in (torch.cat([ids, *more], 1) if more else ids).tolist():
        rest = iter(row[n:])
        end, is_stuck = (canvas.length, None) if alone else (next(rest), bool(next(rest)))
        overridden = applied.overridden is not None and bool(next(rest))
        found.append(RowRead(row[:n], end, is_stuck, overridden, confidence is not None and bool(next(rest))))
    return found


def _reference(reference: Tensor, offset: int, n: int) -> Tensor:
    part = reference[:, offset : offset + n]
    return F.pad(part, (0, n - part.shape[1]), value=PAD)


def _uniform(seeds: Tensor, offset: int, n: int, step: int) -> Tensor:
    return noise.uniform(noise.keys(seeds, _ORDER, _offsets(seeds, offset, n), step))


def _gumbel(seeds: Tensor, offset: int, n: int, step: int, vocab_size: int) -> Tensor:
    return noise.gumbel(noise.keys(seeds, _SAMPLING, _offsets(seeds, offset, n), step), vocab_size)


def _offsets(seeds: Tensor, offset: int, n: int) -> Tensor:
    return torch.arange(offset, offset + n, device=seeds.device)
