"""THE decode loop: one for every strategy, cache, batch size and host.

The engine owns the canvas, the forward, the numerics (token picks and confidences), the
commit, the stop rule and the counters. A strategy only says which masks to fill. The
engine knows nothing of tasks, graders or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from l2pd_bench import step
from l2pd_bench.auxiliary import Auxiliary
from l2pd_bench.cache import POLICIES, policy
from l2pd_bench.canvas import Canvas
from l2pd_bench.errors import PluginError, UsageError, unknown
from l2pd_bench.hosts.base import Host
from l2pd_bench.measure import Stopwatch
from l2pd_bench.strategies.base import Context, Frontier, Strategy

EOT_POLICIES = {
    "decode": "fill the whole canvas",
    "stop": "a sample ends once an EoT is committed and everything before it is filled",
    "predict": "the canvas is cut behind an EoT once one is predicted (Learn2PD's EoTP)",
}
STEP_CAP = 4  # forwards per position of a block, after which a remasking rule is taken to loop for ever


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
    nfe_full: int = 0  # forwards it was active in that fed all its columns
    nfe_window: int = 0  # forwards it was active in that fed part of them
    nfe_auxiliary: int = 0  # forwards of the strategy's own models
    positions: int = 0  # columns fed to the host for it, padding not counted
    flops: int = 0  # of the host and of the strategy's own models
    forced_commits: int = 0  # steps in which the strategy chose nothing for it
    overrides: int = 0  # steps in which the strategy filled in other tokens than the model's picks
    cut_tokens: int = 0  # columns that EoT prediction cut off


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
    references: Sequence[Sequence[int]] | None = None,
    observe: step.Observer | None = None,
) -> BatchDecoded:
    """Fill a batch of canvases. `seeds`: one per prompt, see `noise.sample_seed`.

    `references`: the `output_ids` of the baseline's decode in the same setting, for a
    strategy that is shown them (`uses_reference`); under EoT policy `predict` its canvas
    ends where the reference does from the beginning. `observe`: told of every forward, once
    for each sample that was active in it; what it does costs decode seconds.
    Raises UsageError for no prompts, another number of seeds or references, references
    that are missing, and settings that the strategy cannot be decoded in; PluginError if
    it breaks its contract or never finishes a block.
    """
    if not 0 < len(prompts) == len(seeds):
        raise UsageError(f"decode: got {len(prompts)} prompts and {len(seeds)} seeds, expected as many, at least one")
    if strategy.uses_reference and (references is None or len(references) != len(prompts)):
        raise UsageError(
            f"strategy '{strategy.name}': got {len(references or [])} reference decodes for {len(prompts)} prompts, "
            "expected one for each: those of fixed-step in the same setting"
        )
    check_frontier(strategy, settings, len(prompts))
    with torch.inference_mode():
        shown = references if strategy.uses_reference else None
        return _decode(host, strategy, prompts, seeds, settings, shown, observe)


def check_frontier(strategy: Strategy, settings: DecodeSettings, batch_size: int) -> None:
    """Raise UsageError if a strategy that decodes without blocks is asked for what only blocks have."""
    if strategy.frontier() is None:
        return
    if strategy.uses_reference:
        raise PluginError(f"strategy '{strategy.name}': got both uses_reference and frontier(), expected at most one")
    why = f"strategy '{strategy.name}': decodes from a frontier of its own, without blocks"
    if settings.cache != "none":
        raise UsageError(f"{why}; got cache '{settings.cache}', expected none, as what it reuses is its own parameter")
    if batch_size != 1:
        raise UsageError(f"{why}; got a batch of {batch_size}, expected 1, as every sample's frontier moves on its own")


def prepare(host: Host, strategy: Strategy, settings: DecodeSettings) -> None:
    """Have a strategy load its own models, so that what it lacks is known before anything is decoded.

    Raises whatever its `begin` raises, and UsageError as `decode` does.
    """
    check_frontier(strategy, settings, 1)
    strategy.begin(_context(host, settings, Auxiliary(host, [0], 1 + settings.gen_length)))


def _context(host: Host, settings: DecodeSettings, auxiliary: Auxiliary) -> Context:
    return Context(
        block_length=settings.block_length,
        gen_length=settings.gen_length,
        mask_id=host.mask_id,
        eot_id=host.eot_id,
        vocab_size=host.vocab_size,
        tokenizer_id=host.tokenizer_id,
        temperature=settings.temperature,
        host=host.name,
        weights_hash=host.weights_hash,
        module=auxiliary.module,
        scorer=auxiliary.scorer,
    )


def _decode(
    host: Host,
    strategy: Strategy,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: DecodeSettings,
    references: Sequence[Sequence[int]] | None,
    observe: step.Observer | None,
) -> BatchDecoded:
    cache, n, frontier = policy(settings.cache), settings.block_length, strategy.frontier()
    reference = None
    if references is not None:
        whole = [[*ids, *[host.eot_id] * (settings.gen_length - len(ids))] for ids in references]
        reference = torch.tensor(whole, device=host.device)
    canvas = Canvas(prompts, seeds, settings.gen_length, host.mask_id, host.device, reference)
    samples = [Decoded([]) for _ in prompts]
    auxiliary = Auxiliary(host, canvas.padding, canvas.length)
    watch = Stopwatch(host.device)
    session = host.open(canvas.padding, canvas.length, cached=cache.reuses or frontier is not None)
    select = strategy.begin(_context(host, settings, auxiliary))
    if references is not None and settings.eot == "predict":
        ends = [canvas.start + len(ids) for ids in references]
        canvas.cut(torch.tensor(ends, device=host.device))
        canvas.trim(ends)
        session.resize(ends)
    for turn, (block, first_window) in enumerate(_turns(canvas, samples, n, frontier)):
        rows = [step.RowRead([], end, False, False) for end in canvas.lengths]  # as last read
        active = [True] * len(rows)
        steps = 0
        visible = canvas.length if frontier is None else block.stop  # there is nothing beyond a frontier's lookahead
        if frontier is not None:
            session.resize([visible])
        while any(active) and not (frontier is not None and steps):
            if steps == STEP_CAP * n or (frontier is not None and turn == STEP_CAP * settings.gen_length):
                raise PluginError(
                    f"strategy '{strategy.name}': a block still has masks after {max(steps, turn)} forwards, expected "
                    f"at most {STEP_CAP} per position; does it remask as many positions as it commits?"
                )
            # 1) one forward over the window the cache policy asks for
            window = first_window if steps == 0 else cache.window(block, canvas.length)
            ahead = window.stop if settings.eot == "predict" else min(block.stop, window.stop)
            mark = watch.start()
            logits = session.forward(canvas.ids[:, window], window.start, slice(block.start, ahead))  # (B, C, V)
            watch.stop("model", mark)
            # 2) what the strategy sees, and 3) what it decides
            spent = steps if frontier is None else samples[0].nfe_full + samples[0].nfe_window
            seen = step.predict(host, canvas, logits, block.start, spent, settings.temperature)
            view = step.observe(host, canvas, seen, block, spent, is_drawn=settings.temperature > 0)
            mark = watch.start()
            decision = select(view)
            watch.stop("select", mark)
            # 4) fill, perhaps cut, and 5) read it back
            applied = step.commit(strategy, canvas, view, decision, host)
            if settings.eot == "predict" and reference is None:
                step.cut(host, canvas, seen, applied, block.start)
            read = step.read(canvas, block, applied)
            # 6) count, for every row by itself
            helped, helped_flops = auxiliary.take(len(rows))
            for i in [i for i, is_active in enumerate(active) if is_active]:
                length, rows[i] = min(canvas.lengths[i], visible), read[i]
                ids = rows[i].ids[: rows[i].end - block.start]
                if decision.tokens is not None and ids and not 0 <= min(ids) <= max(ids) < host.vocab_size:
                    raise PluginError(
                        f"strategy '{strategy.name}': filled in ids from {min(ids)} to {max(ids)}, "
                        f"expected ids from 0 to {host.vocab_size - 1}"
                    )
                sample = samples[canvas.rows[i]]
                sample.forced_commits += rows[i].forced
                sample.overrides += rows[i].overridden
                sample.nfe_auxiliary += helped
                sample.flops += helped_flops[i]
                _count(sample, host, window, canvas.padding[i], length, min(ahead, length) - block.start)
                masks_left, stop = host.mask_id in ids, _stop(ids, host, settings.eot)
                active[i] = masks_left and not stop
                if masks_left and stop:
                    block_ids = canvas.ids[i, block]  # nothing more to choose in this row
                    block_ids.masked_fill_(block_ids == host.mask_id, host.eot_id)
                if observe is not None:
                    end = block.start + stop if stop else rows[i].end
                    observe(step.Told(canvas.rows[i], block, ids, seen.confidence[i], canvas.start, end))
            if canvas.trim([row.end for row in read]):
                session.resize(canvas.lengths)
            steps += 1
        # 7) the block is done: keep its tokens, and only the rows that go on
        going = []
        for i, row in enumerate(rows):
            sample, ids = samples[canvas.rows[i]], row.ids[: row.end - block.start]
            ids = ids[: ids.index(host.mask_id)] if host.mask_id in ids else ids  # a frontier leaves masks
            stop = _stop(ids, host, settings.eot)
            sample.output_ids += ids[:stop] if stop else ids
            sample.cut_tokens = canvas.start + settings.gen_length - row.end
            if not stop and canvas.start + len(sample.output_ids) < row.end:
                going.append(i)
        if not going:
            break
        if len(going) < len(rows):
            session.keep(canvas.keep(going))
            session.resize(canvas.lengths)
    decode_s, parts = watch.finish()
    return BatchDecoded(samples, decode_s, parts["model"], parts["select"])


def _turns(
    canvas: Canvas, samples: Sequence[Decoded], n: int, frontier: Frontier | None
) -> Iterator[tuple[slice, slice]]:
    """The active blocks, left to right, each with the window of its first forward; the canvas may shrink meanwhile.

    A frontier's block begins at the first mask and gets one forward (APD, section A.6 of
    its description: all of the canvas at first, then what is near the frontier).
    """
    if frontier is None:
        at = canvas.start
        while at < canvas.length:
            yield slice(at, at + n), slice(0, canvas.length)
            at += n
        return
    at, left = canvas.start, 0
    while at < canvas.length:
        stop = canvas.length if frontier.lookahead is None else min(at + frontier.lookahead, canvas.length)
        yield slice(at, stop), slice(left, stop)
        before, at = at, canvas.start + len(samples[0].output_ids)
        left = 0 if frontier.window is None else max(before - frontier.window + 1, 0)


def _stop(ids: list[int], host: Host, eot: str) -> int:
    """How many ids of a block a sample has if it ends there: with an EoT, all before it filled; else 0."""
    stop = ids.index(host.eot_id) + 1 if eot == "stop" and host.eot_id in ids else 0
    return 0 if host.mask_id in ids[:stop] else stop


def _count(sample: Decoded, host: Host, window: slice, padding: int, length: int, logits: int) -> None:
    """Add one forward to a sample's counters, as if it had been decoded alone.

    `length` is the row's own, before this forward; `logits` the rows of the head.
    """
    fed = min(window.stop, length) - max(window.start, padding)
    if fed == length - padding:
        sample.nfe_full += 1
    else:
        sample.nfe_window += 1
    sample.positions += fed
    sample.flops += host.flops(fed, length - padding, logits)
