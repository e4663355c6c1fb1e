"""THE decode loop: one for every strategy, cache, batch size and host.

The engine owns the canvas, the forward, the numerics (token picks and confidences), the
commit, the stop rule and the counters. A strategy only says which masks to fill. The
engine knows nothing of tasks, graders or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2pd_bench import noise
from l2pd_bench.cache import POLICIES, policy
from l2pd_bench.canvas import Canvas
from l2pd_bench.errors import PluginError, UsageError, unknown
from l2pd_bench.hosts.base import Host
from l2pd_bench.measure import Stopwatch
from l2pd_bench.strategies.base import Context, Decision, StepView, Strategy

EOT_POLICIES = {
    "decode": "fill the whole canvas",
    "stop": "a sample ends once an EoT is committed and everything before it is filled",
}
STEP_CAP = 4  # forwards per position of a block, after which a remasking rule is taken to loop for ever

_SAMPLING, _ORDER = 1, 2  # independent streams of random numbers


@dataclass(frozen=True)
class DecodeSettings:
    """Everything about decoding that is not the strategy; validated on creation."""

    gen_length: int = 128
    block_length: int = 32
    cache: str = "none"
    eot: str = "decode"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for a value that cannot be decoded with."""
        for name in ("gen_length", "block_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if self.gen_length % self.block_length:
            below = self.gen_length // self.block_length * self.block_length
            near = " or ".join(str(n) for n in (below, below + self.block_length) if n)
            raise UsageError(
                f"gen-length: got {self.gen_length}, which block-length {self.block_length} does not divide; try {near}"
            )
        if self.cache not in POLICIES:
            raise unknown("cache", self.cache, POLICIES)
        if self.eot not in EOT_POLICIES:
            raise unknown("eot", self.eot, EOT_POLICIES)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature: got {self.temperature}, expected a finite number >= 0")


@dataclass
class Decoded:
    """One sample's outcome; all counts are its own, whatever batch it was in."""

    output_ids: list[int]  # the generation region, up to where the sample ended
    nfe_full: int = 0  # forwards it was active in that fed the whole canvas
    nfe_window: int = 0  # forwards it was active in that fed part of it
    positions: int = 0  # columns fed for it, padding not counted
    flops: int = 0
    forced_commits: int = 0  # steps in which the strategy chose nothing for it


@dataclass(frozen=True)
class BatchDecoded:
    """A batch's samples, in the order of its prompts, and where the time went (seconds)."""

    samples: list[Decoded]
    decode_s: float
    model_s: float
    select_s: float


def decode(
    host: Host,
    strategy: Strategy,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: DecodeSettings,
) -> BatchDecoded:
    """Fill a batch of canvases. `seeds`: one per prompt, see `noise.sample_seed`.

    Raises UsageError for no prompts or another number of seeds, and PluginError if the
    strategy breaks its contract or never finishes a block.
    """
    if not 0 < len(prompts) == len(seeds):
        raise UsageError(f"decode: got {len(prompts)} prompts and {len(seeds)} seeds, expected as many, at least one")
    with torch.inference_mode():
        return _decode(host, strategy, prompts, seeds, settings)


def _decode(
    host: Host, strategy: Strategy, prompts: Sequence[Sequence[int]], seeds: Sequence[int], settings: DecodeSettings
) -> BatchDecoded:
    cache, n = policy(settings.cache), settings.block_length
    canvas = Canvas(prompts, seeds, settings.gen_length, host.mask_id, host.device)
    context = Context(n, settings.gen_length, host.mask_id, host.eot_id, host.vocab_size, host.tokenizer_id)
    samples = [Decoded([]) for _ in prompts]
    watch = Stopwatch(host.device)
    session = host.open(canvas.padding, canvas.length, cached=cache.reuses)
    select = strategy.begin(context)
    for block in canvas.blocks(n):
        rows = [[host.mask_id] * n for _ in canvas.rows]  # the block as last read
        active = [True] * len(rows)
        step = 0
        while any(active):
            if step == STEP_CAP * n:
                raise PluginError(
                    f"strategy '{strategy.name}': a block of {n} still has masks after {step} forwards, expected at "
                    f"most {STEP_CAP} per position; does it remask as many positions as it commits?"
                )
            # 1) one forward over the window the cache policy asks for
            window = slice(0, canvas.length) if step == 0 else cache.window(block, canvas.length)
            mark = watch.start()
            logits = session.forward(canvas.ids[:, window], window.start, block)  # (B, N, V)
            watch.stop("model", mark)
            # 2) what the strategy sees, and 3) what it decides
            view = _observe(host, canvas, logits, block, step, settings.temperature)
            mark = watch.start()
            decision = select(view)
            watch.stop("select", mark)
            # 4) fill, 5) read the block back, 6) count
            forced = _commit(strategy, canvas, view, decision, host.mask_id)
            read = _read(canvas.ids[:, block], forced)
            for i in [i for i, is_active in enumerate(active) if is_active]:
                *rows[i], was_forced = read[i]
                if decision.tokens is not None and not 0 <= min(rows[i]) <= max(rows[i]) < host.vocab_size:
                    raise PluginError(
                        f"strategy '{strategy.name}': filled in ids from {min(rows[i])} to {max(rows[i])}, "
                        f"expected ids from 0 to {host.vocab_size - 1}"
                    )
                sample = samples[canvas.rows[i]]
                sample.forced_commits += was_forced
                _count(sample, host, window, canvas.padding[i], canvas.length, n)
                masks_left = host.mask_id in rows[i]
                if masks_left and _ends(rows[i], host, settings.eot):
                    block_ids = canvas.ids[i, block]  # nothing more to choose in this row
                    block_ids.masked_fill_(block_ids == host.mask_id, host.eot_id)
                    masks_left = False
                active[i] = masks_left
            step += 1
        # 7) the block is done: keep its tokens, and only the rows that go on
        going = []
        for i, row in enumerate(rows):
            ended = _ends(row, host, settings.eot)
            samples[canvas.rows[i]].output_ids += row[: row.index(host.eot_id) + 1] if ended else row
            if not ended:
                going.append(i)
        if not going:
            break
        if len(going) < len(rows):
            session.keep(canvas.keep(going))
    decode_s, parts = watch.finish()
    return BatchDecoded(samples, decode_s, parts["model"], parts["select"])


def _observe(host: Host, canvas: Canvas, logits: Tensor, block: slice, step: int, temperature: float) -> StepView:
    """The view of the active block: picks and confidences in float32, the same for every strategy.

    A pick is the most likely token (the lowest id among equals), or at a temperature a
    sample by the Gumbel-max trick; MASK is never picked. Its confidence is its
    probability under the untempered softmax.
    """
    logits = logits.float()
    logits[..., host.mask_id] = -torch.inf
    offset = block.start - canvas.start
    offsets = torch.arange(offset, offset + logits.shape[1], device=logits.device)
    if temperature > 0:
        key = noise.keys(canvas.seeds, _SAMPLING, offsets, step)
        tokens = (logits / temperature + noise.gumbel(key, logits.shape[-1])).argmax(-1)
        picked = logits.gather(-1, tokens[..., None]).squeeze(-1)
    else:
        picked, tokens = logits.max(-1)
    return StepView(
        tokens=tokens,
        confidence=(picked - logits.logsumexp(-1)).exp(),
        logits=logits,
        candidates=canvas.ids[:, block] == host.mask_id,
        canvas=canvas.ids,
        start=block.start,
        step=step,
        rows=tuple(canvas.rows),
        uniform=lambda: noise.uniform(noise.keys(canvas.seeds, _ORDER, offsets, step)),
    )


def _commit(strategy: Strategy, canvas: Canvas, view: StepView, decision: Decision, mask_id: int) -> Tensor:
    """Apply a decision to the canvas: clipped to candidates, and never without progress.

    A row with candidates of which none was chosen commits its most confident one; which
    rows those are is returned, (B, 1) bool. Remasking reaches open rows' committed
    positions only.
    """
    if not isinstance(decision, Decision):
        raise PluginError(f"strategy '{strategy.name}': select must return a Decision, got {type(decision).__name__}")
    block_ids = canvas.ids[:, view.start : view.start + view.tokens.shape[1]]
    candidates = block_ids == mask_id  # anew: a rule may have worked in place on those it was shown
    _check(strategy, "commit", decision.commit, torch.bool, candidates)
    commit = decision.commit & candidates
    is_open = candidates.any(-1, keepdim=True)
    stuck = is_open & ~commit.any(-1, keepdim=True)  # (B, 1)
    first = view.confidence.masked_fill(~candidates, -1.0).argmax(-1, keepdim=True)
    commit.scatter_(1, first, commit.gather(1, first) | stuck)
    tokens = view.tokens
    if decision.tokens is not None:
        _check(strategy, "tokens", decision.tokens, torch.int64, candidates)
        tokens = torch.where(stuck, tokens, decision.tokens)
    filled = torch.where(commit, tokens, block_ids)
    if decision.remask is not None:
        _check(strategy, "remask", decision.remask, torch.bool, candidates)
        filled.masked_fill_(decision.remask & ~commit & is_open, mask_id)
    block_ids.copy_(filled)
    return stuck


def _check(strategy: Strategy, field: str, got: object, dtype: torch.dtype, like: Tensor) -> None:
    """Raise PluginError unless `got` is a tensor of `dtype`, shaped like `like` (metadata only)."""
    if isinstance(got, Tensor) and got.dtype == dtype and got.shape == like.shape:
        return
    found = f"{got.dtype} {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
    raise PluginError(f"strategy '{strategy.name}': {field} must be {dtype} of shape {tuple(like.shape)}, got {found}")


def _read(block_ids: Tensor, forced: Tensor) -> list[list[int]]:
    """The only read of a tensor on the host in a step: per row, the block's N ids and whether it was forced."""
    rows: list[list[int]] = torch.cat([block_ids, forced], 1).tolist()
    return rows


def _ends(row: list[int], host: Host, eot: str) -> bool:
    """Whether a sample ends in this block: an EoT is committed and every position before it is filled."""
    return eot == "stop" and host.eot_id in row and host.mask_id not in row[: row.index(host.eot_id)]


def _count(sample: Decoded, host: Host, window: slice, padding: int, length: int, logits: int) -> None:
    """Add one forward to a sample's counters, as if it had been decoded alone."""
    fed = window.stop - max(window.start, padding)
    if fed == length - padding:
        sample.nfe_full += 1
    else:
        sample.nfe_window += 1
    sample.positions += fed
    sample.flops += host.flops(fed, length - padding, logits)
