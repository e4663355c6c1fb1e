"""One step on a canvas: what is seen, what is committed, where the canvas ends now, and the one read.

Tensors in, tensors out, nothing is read on the host but in `read`. When a step is taken
and what it costs is the loop's affair (`engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable
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
    """What the model says of the columns from the block's first on, C of them."""

    logits: Tensor  # (B, C, V) float32, MASK at -inf
    tokens: Tensor  # (B, C) int64: the pick
    confidence: Tensor  # (B, C) float32: its probability under the untempered softmax


class Applied(NamedTuple):
    """What a decision came to, per row."""

    is_open: Tensor  # (B, 1) bool: had candidates
    forced: Tensor  # (B, 1) bool: the strategy chose none of them
    overridden: Tensor  # (B, 1) bool: other tokens than the model's picks were filled in
    accepted: Tensor  # (B, N) bool: filled, and what the rule itself was sure of


class RowRead(NamedTuple):
    """One row after a step, on the host."""

    ids: list[int]  # of the block
    end: int  # the column behind its last
    forced: bool
    overridden: bool


class Told(NamedTuple):
    """One row after a step, as an observer of the decode is told. Nothing in it is to be changed."""

    row: int  # its place in the batch as it began
    block: slice  # columns of the canvas
    ids: list[int]  # of the block, up to where the row ends
    confidence: Tensor  # (C,) float32, C >= len(ids): of the model's picks from the block's first column on
    start: int  # the column of the first mask of the generation region
    end: int  # the column behind the row's last: EoT policies "predict" and "stop" lower it


Observer = Callable[[Told], None]


def predict(host: Host, canvas: Canvas, logits: Tensor, start: int, step: int, temperature: float) -> Prediction:
    """Picks and confidences in float32, the same for every strategy.

    A pick is the most likely token (the lowest id among equals), or at a temperature a
    sample by the Gumbel-max trick; MASK is never picked.
    """
    logits = logits.float()
    logits[..., host.mask_id] = -torch.inf
    if temperature > 0:
        offset, n = start - canvas.start, logits.shape[1]
        drawn = logits / temperature + _gumbel(canvas.seeds, offset, n, step, logits.shape[-1])
        tokens = drawn.argmax(-1)
        picked = logits.gather(-1, tokens[..., None]).squeeze(-1)
    else:
        picked, tokens = logits.max(-1)
    return Prediction(logits, tokens, (picked - logits.logsumexp(-1)).exp())


def observe(host: Host, canvas: Canvas, seen: Prediction, block: slice, step: int, *, is_drawn: bool) -> StepView:
    """The view of a block. Columns that no row has any more are put back as positions of confidence 0."""
    n, offset = block.stop - block.start, block.start - canvas.start
    ids = canvas.ids[:, block]
    logits, tokens, confidence = (part[:, :n] for part in seen)
    if missing := n - ids.shape[1]:
        ids = F.pad(ids, (0, missing), value=PAD)
        logits, tokens = F.pad(logits, (0, 0, 0, missing)), F.pad(tokens, (0, missing), value=host.eot_id)
        logits[:, -missing:, host.mask_id] = -torch.inf
        confidence = F.pad(confidence, (0, missing))
    confidence = confidence.masked_fill(ids == PAD, 0.0)
    reference = canvas.reference
    if reference is not None:
        reference = reference[:, offset : offset + n]
        reference = F.pad(reference, (0, n - reference.shape[1]), value=PAD)
    return StepView(
        tokens=tokens,
        confidence=confidence,
        logits=logits,
        candidates=ids == host.mask_id,
        canvas=canvas.ids,
        start=block.start,
        step=step,
        rows=tuple(canvas.rows),
        uniform=partial(_uniform, canvas.seeds, offset, n, step),
        gumbel=partial(_gumbel, canvas.seeds, offset, n, step, logits.shape[-1]) if is_drawn else None,
        reference=reference,
    )


def commit(strategy: Strategy, canvas: Canvas, view: StepView, decision: Decision, host: Host) -> Applied:
    """Apply a decision to the canvas: clipped to candidates, and never without progress.

    A row with candidates of which none was chosen commits its most confident one. Remasking
    reaches open rows' committed positions only. Raises PluginError for a decision of the
    wrong kind.
    """
    if not isinstance(decision, Decision):
        raise PluginError(f"strategy '{strategy.name}': select must return a Decision, got {type(decision).__name__}")
    block_ids = canvas.ids[:, view.start : view.start + view.tokens.shape[1]]
    width = block_ids.shape[1]
    candidates = block_ids == host.mask_id  # anew: a rule may have worked in place on those it was shown
    like = view.tokens
    _check(strategy, "commit", decision.commit, torch.bool, like)
    chosen = decision.commit[:, :width] & candidates
    is_open = candidates.any(-1, keepdim=True)
    stuck = is_open & ~chosen.any(-1, keepdim=True)  # (B, 1)
    accepted = chosen
    if decision.accepted is not None:
        _check(strategy, "accepted", decision.accepted, torch.bool, like)
        accepted = chosen & decision.accepted[:, :width]
    first = view.confidence[:, :width].masked_fill(~candidates, -1.0).argmax(-1, keepdim=True)
    filled_now = chosen.scatter(1, first, chosen.gather(1, first) | stuck)
    tokens = view.tokens[:, :width]
    overridden = torch.zeros_like(stuck)
    if decision.tokens is not None:
        _check(strategy, "tokens", decision.tokens, torch.int64, like)
        given = torch.where(stuck, tokens, decision.tokens[:, :width])
        overridden = (filled_now & (given != tokens)).any(-1, keepdim=True)
        tokens = given
    filled = torch.where(filled_now, tokens, block_ids)
    if decision.remask is not None:
        _check(strategy, "remask", decision.remask, torch.bool, like)
        is_committed = block_ids != PAD
        filled.masked_fill_(decision.remask[:, :width] & is_committed & ~filled_now & is_open, host.mask_id)
    block_ids.copy_(filled)
    return Applied(is_open, stuck, overridden, accepted)


def cut(host: Host, canvas: Canvas, seen: Prediction, applied: Applied, start: int) -> None:
    """EoT prediction (Learn2PD, arXiv 2509.25188): end open rows behind an EoT that is predicted.

    Rule 1: behind the first EoT that was accepted now. Rule 2, where there is none: behind
    the most confident position (the first among equals) that is still masked and predicted
    to be EoT, among all columns this forward has predicted. What is cut off never returns.
    """
    columns = torch.arange(start, start + seen.tokens.shape[1], device=seen.tokens.device)
    ids = canvas.ids[:, start : start + len(columns)]
    nowhere = canvas.length
    width = applied.accepted.shape[1]
    is_end = applied.accepted & (ids[:, :width] == host.eot_id)
    first = torch.where(is_end, columns[:width], nowhere).amin(-1)
    is_hint = (ids == host.mask_id) & (seen.tokens == host.eot_id)
    hint, place = seen.confidence.masked_fill(~is_hint, -1.0).max(-1)
    second = torch.where(hint >= 0, columns[place], nowhere)
    end = torch.where(first < nowhere, first, second) + 1
    canvas.cut(torch.where(applied.is_open[:, 0], end, nowhere))


def read(canvas: Canvas, block: slice, applied: Applied) -> list[RowRead]:
    """The only read of tensors on the host in a step."""
    told = torch.cat([canvas.ids[:, block], canvas.ends[:, None], applied.forced, applied.overridden], 1)
    return [RowRead(ids, end, bool(forced), bool(over)) for *ids, end, forced, over in told.tolist()]


def _uniform(seeds: Tensor, offset: int, n: int, step: int) -> Tensor:
    return noise.uniform(noise.keys(seeds, _ORDER, _offsets(seeds, offset, n), step))


def _gumbel(seeds: Tensor, offset: int, n: int, step: int, vocab_size: int) -> Tensor:
    return noise.gumbel(noise.keys(seeds, _SAMPLING, _offsets(seeds, offset, n), step), vocab_size)


def _offsets(seeds: Tensor, offset: int, n: int) -> Tensor:
    return torch.arange(offset, offset + n, device=seeds.device)


def _check(strategy: Strategy, field: str, got: object, dtype: torch.dtype, like: Tensor) -> None:
    """Raise PluginError unless `got` is a tensor of `dtype`, shaped like `like` (metadata only)."""
    if isinstance(got, Tensor) and got.dtype == dtype and got.shape == like.shape:
        return
    found = f"{got.dtype} {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
    raise PluginError(f"strategy '{strategy.name}': {field} must be {dtype} of shape {tuple(like.shape)}, got {found}")
