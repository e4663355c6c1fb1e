"""THE decode loop: one for every strategy, cache, number of samples at once, and host.

The engine owns the canvas, the forward, the numerics (token picks and confidences), the
commit, the stop rule and the counters. A strategy only says which masks to fill. The
engine knows nothing of tasks, graders or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor

from l2pd_bench import step
from l2pd_bench.auxiliary import Auxiliary
from l2pd_bench.cache import policy
from l2pd_bench.canvas import Canvas
from l2pd_bench.decode_settings import DecodeSettings, check_frontier
from l2pd_bench.decoded import BatchDecoded, Row, blocks_of, end_of, turns_of
from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.hosts.base import Host
from l2pd_bench.measure import Stopwatch
from l2pd_bench.strategies.base import Context, Decision, Strategy

STEP_CAP = 4  # forwards per position of a block, after which a remasking rule is taken to loop for ever


def decode(
    host: Host,
    strategy: Strategy,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: DecodeSettings,
    references: Sequence[Sequence[int]] | None = None,
    observe: step.Observer | None = None,
    *,
    slots: int | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> BatchDecoded:
    """Fill the canvases of some prompts, at most `slots` at a time (None: all at once).

    A sample that is done makes room for the next prompt at once. `seeds`: one per prompt,
    see `noise.sample_seed`. `references`: the `output_ids` of the baseline's decode in the
    same setting, for a strategy that is shown them (`uses_reference`); under EoT policy
    `predict` its canvas ends where the reference does from the beginning. `observe`: told of
    every forward, once for each sample that was active in it; what it does costs decode
    seconds. `goes_on` is asked before a prompt is begun that others have made room for: once
    it says no, what is under way is finished, and samples of the first prompts only come back.

    Raises UsageError for no prompts, another number of seeds or references, references
    that are missing, and settings that the strategy cannot be decoded in; PluginError if
    it breaks its contract or never finishes a block, and if the host predicts NaN.
    """
    if not 0 < len(prompts) == len(seeds):
        raise UsageError(f"decode: got {len(prompts)} prompts and {len(seeds)} seeds, expected as many, at least one")
    if strategy.uses_reference and (references is None or len(references) != len(prompts)):
        raise UsageError(
            f"strategy '{strategy.name}': got {len(references or [])} reference decodes for {len(prompts)} prompts, "
            "expected one for each: those of fixed-step in the same setting"
        )
    slots = min(slots or len(prompts), len(prompts))
    check_frontier(strategy, settings, slots)
    with torch.inference_mode():
        shown = references if strategy.uses_reference else None
        loop = _Loop(host, strategy, prompts, seeds, settings, shown, observe, slots)
        return loop.run(goes_on)


def prepare(host: Host, strategy: Strategy, settings: DecodeSettings) -> None:
    """Have a strategy load its own models, so that what it lacks is known before anything is decoded.

    Raises whatever its `begin` raises, and UsageError as `decode` does.
    """
    check_frontier(strategy, settings, 1)
    strategy.begin(_context(host, settings, Auxiliary(host, 0, 1 + settings.gen_length)))


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


class _Loop:
    """One decode. Rows in `fresh` wait for a forward of all their columns; those in `kept` have keys, in slot order."""

    def __init__(
        self,
        host: Host,
        strategy: Strategy,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: DecodeSettings,
        references: Sequence[Sequence[int]] | None,
        observe: step.Observer | None,
        slots: int,
    ) -> None:
        self.host, self.strategy, self.settings, self.told, self.slots = host, strategy, settings, observe, slots
        self.watch = Stopwatch(host.device)
        self.cache, self.frontier = policy(settings.cache), strategy.frontier()
        reference = None
        if references is not None:
            whole = [[*ids, *[host.eot_id] * (settings.gen_length - len(ids))] for ids in references]
            reference = torch.tensor(whole, device=host.device)
        self.canvas = Canvas(prompts, seeds, settings.gen_length, host.mask_id, host.device, reference)
        self.ends = [self.canvas.length] * len(prompts)
        if references is not None and settings.eot == "predict":
            self.ends = [self.canvas.start + len(ids) for ids in references]
            self.canvas.cut(torch.tensor(self.ends, device=host.device))
        self.predicts_end = settings.eot == "predict" and references is None
        self.reuses = self.cache.reuses or self.frontier is not None
        self.session = host.open(self.canvas.padding, self.canvas.length, cached=self.reuses, slots=slots)
        self.rows: list[Row] = []  # all that were begun
        self.fresh: list[Row] = []
        self.kept: list[Row] = []

    def run(self, goes_on: Callable[[], bool]) -> BatchDecoded:
        """All prompts, or what was begun of them when `goes_on` said no."""
        is_open, is_fresh, last = True, False, list[Row]()
        while True:
            # 0) make room for others; then those that need all their columns fed take turns with those that do not
            while is_open and len(self.rows) < len(self.ends) and len(self.fresh) + len(self.kept) < self.slots:
                is_open = len(self.rows) < self.slots or goes_on()
                if is_open:
                    self._begin(len(self.rows))
            if not self.fresh and not self.kept:
                return self._finish(last)
            is_fresh = bool(self.fresh) and not (self.kept and is_fresh)
            rows, slot = (self.fresh, len(self.kept)) if is_fresh else (self.kept, 0)
            rows = last = sorted(rows, key=lambda row: row.block.start) if is_fresh else list(rows)
            began_s = perf_counter()
            is_done = self._step(rows, slot)
            now_s = perf_counter()
            for row in rows:
                row.spent_s += (now_s - began_s) / len(rows)
                row.latency_s = now_s - self.watch.began - row.began_s
            self._sort(rows, slot, is_done)

    def _begin(self, place: int) -> None:
        host, canvas = self.host, self.canvas
        began_s = perf_counter() - self.watch.began if place >= self.slots else 0.0
        auxiliary = Auxiliary(host, canvas.padding[place], canvas.length)
        select = self.strategy.begin(_context(host, self.settings, auxiliary))
        row = Row(place, canvas.padding[place], self.ends[place], select, auxiliary, began_s)
        if self.frontier is None:
            row.blocks = blocks_of(row, canvas.start, self.settings.block_length)
        else:
            row.blocks = turns_of(row, canvas.start, self.frontier)
        row.next_block()
        self.rows.append(row)
        self.fresh.append(row)

    def _step(self, rows: Sequence[Row], slot: int) -> list[bool]:
        """One forward of some rows, and what follows from it; whether each of them is done with its block."""
        host, strategy, eot, watch = self.host, self.strategy, self.settings.eot, self.watch
        temperature, places = self.settings.temperature, [row.place for row in rows]
        canvas = self.canvas.take(places)
        windows = [row.window(self.cache) for row in rows]
        lengths = [min(row.end, row.block.stop) if self.frontier else row.end for row in rows]  # nothing is beyond it
        aheads = [w.stop if eot == "predict" else min(r.block.stop, w.stop) for r, w in zip(rows, windows, strict=True)]
        blocks = [row.block.start for row in rows]
        at = [(row.block.start, self._spent(row)) for row in rows]
        # 1) one forward over the windows the cache policy asks for
        left = min(max(w.start, row.padding) for row, w in zip(rows, windows, strict=True))
        starts = [w.start or left for w in windows]
        width = max(w.stop - start for w, start in zip(windows, starts, strict=True))
        size = max(ahead - b for ahead, b in zip(aheads, blocks, strict=True))
        wanted = [slice(b, b + size) for b in blocks]
        mark = watch.start()
        fed = canvas.columns(starts, width)
        logits = self.session.forward(fed, starts, wanted, rows=places, lengths=lengths, slot=slot)  # (B, C, V)
        watch.stop("model", mark, places)
        # 2) what the strategy sees, and 3) what it decides
        seen = step.predict(host, canvas, logits, at, temperature)
        block_ids = canvas.columns(blocks, rows[0].block.stop - rows[0].block.start)
        view = step.observe(host, canvas, seen, block_ids, at, temperature, may_end=eot == "predict")
        views = step.split(view, canvas, at, temperature, alone=strategy.has_memory)
        mark, decisions = watch.start(), list[Decision]()
        for part in views:
            row = rows[sum(len(d.commit) for d in decisions)]
            decisions.append(step.checked(strategy, part, row.select(part)))
        watch.stop("select", mark, places)
        # 4) fill, perhaps cut, and 5) read it back
        decision = step.join(views, decisions)
        applied = step.commit(view, decision, block_ids, host)
        is_first = any(row.steps == 0 for row in rows)  # NaN is not looked for in every step
        read = self._apply(canvas, seen, applied, blocks, seen.confidence if is_first else None)
        stuck = [
            row.is_stuck(now.ids, host.mask_id) if now.is_stuck is None else now.is_stuck
            for row, now in zip(rows, read, strict=True)
        ]
        if any(stuck):
            forced = step.force(view, canvas.columns(blocks, block_ids.shape[1]), stuck, host)
            again = self._apply(canvas, seen, forced, blocks, None)
            read = [now._replace(ids=new.ids, end=new.end) for now, new in zip(read, again, strict=True)]
        self.canvas.put(places, canvas)
        # 6) count, for every row by itself
        is_done = []
        for i, now in enumerate(read):
            row, ids = rows[i], now.ids[: now.end - blocks[i]]
            self._check(now, ids if decision.tokens is not None else [])
            row.sample.forced_commits += stuck[i]
            row.sample.overrides += now.overridden
            row.count(host, windows[i], lengths[i], aheads[i])
            row.end, row.steps, row.ids = now.end, row.steps + 1, now.ids
            stop = end_of(ids, host.mask_id, host.eot_id) if eot == "stop" else 0
            is_done.append(bool(stop) or host.mask_id not in ids or self.frontier is not None)
            if is_done[-1]:  # a frontier leaves masks
                filled = ids[: ids.index(host.mask_id)] if host.mask_id in ids else ids
                row.sample.output_ids += ids[:stop] if stop else filled
                row.has_ended = bool(stop) or canvas.start + len(row.sample.output_ids) >= row.end
            if self.told is not None:
                end = blocks[i] + stop if stop else now.end
                self.told(step.Told(row.place, row.block, ids, seen.confidence[i], canvas.start, end))
        return is_done

    def _apply(
        self, canvas: Canvas, seen: step.Prediction, applied: step.Applied, blocks: list[int], confidence: Tensor | None
    ) -> list[step.RowRead]:
        """Write the blocks, perhaps cut the canvas, and read both."""
        canvas.put_columns(blocks, applied.ids)
        if self.predicts_end:
            step.cut(self.host, canvas, seen, applied, blocks)
        alone = self.settings.eot != "predict" and self.frontier is None
        return step.read(canvas, blocks, applied, confidence, alone=alone)

    def _sort(self, rows: Sequence[Row], slot: int, is_done: Sequence[bool]) -> None:
        """Put rows where they wait for their next forward, and those with keys into the first slots."""
        waits = [not done or (not row.has_ended and row.next_block()) for row, done in zip(rows, is_done, strict=True)]
        if not self.reuses:
            self.fresh = [row for row, is_waiting in zip(rows, waits, strict=True) if is_waiting]
            return
        waiting = self.fresh if rows[0] in self.kept else []
        stays = [w and (not d or self.frontier is not None) for w, d in zip(waits, is_done, strict=True)]
        self.fresh = waiting + [row for row, w, s in zip(rows, waits, stays, strict=True) if w and not s]
        held: list[Row | None] = [*self.kept[:slot], *(row if s else None for row, s in zip(rows, stays, strict=True))]
        for place in range(len(held)):
            while held and held[-1] is None:
                held.pop()
            if place < len(held) and held[place] is None:
                self.session.move(len(held) - 1, place)
                held[place] = held.pop()
        self.kept = [row for row in held if row is not None]

    def _spent(self, row: Row) -> int:
        """Forwards spent on the block, or on the sample where there are no blocks; PluginError if that has no end."""
        spent, most = row.steps, STEP_CAP * self.settings.block_length
        if self.frontier is not None:
            spent = row.sample.nfe_full + row.sample.nfe_window
            most = STEP_CAP * self.settings.gen_length
        if spent >= most:
            raise PluginError(
                f"strategy '{self.strategy.name}': a block still has masks after {spent} forwards, expected "
                f"at most {STEP_CAP} per position; does it remask as many positions as it commits?"
            )
        return spent

    def _check(self, now: step.RowRead, given: list[int]) -> None:
        """Raise PluginError for ids of the strategy that are none, and for a model that predicts NaN."""
        if given and not 0 <= min(given) <= max(given) < self.host.vocab_size:
            raise PluginError(
                f"strategy '{self.strategy.name}': filled in ids from {min(given)} to {max(given)}, "
                f"expected ids from 0 to {self.host.vocab_size - 1}"
            )
        if now.is_broken:
            raise PluginError(
                f"model '{self.host.name}': got NaN for the probability of a token, expected numbers; are its weights "
                "whole, and is its dtype wide enough? Try --dtype float32"
            )

    def _finish(self, last: Sequence[Row]) -> BatchDecoded:
        """The samples, with the seconds divided among them; those of the last forward end when the clock does."""
        decode_s, parts = self.watch.finish()
        spent_s = sum(row.spent_s for row in self.rows)
        for row in self.rows:
            row.sample.decode_s = decode_s * (row.spent_s / spent_s)
            row.sample.model_s, row.sample.select_s = parts["model", row.place], parts["select", row.place]
            row.sample.latency_s = decode_s - row.began_s if row in last else row.latency_s
            row.sample.cut_tokens = self.canvas.length - row.end
        samples = [row.sample for row in self.rows]
        model_s, select_s = (sum(getattr(s, name) for s in samples) for name in ("model_s", "select_s"))
        return BatchDecoded(samples, decode_s, model_s, select_s)
