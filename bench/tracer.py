"""Decodes a batch once more, watched: every step of every sample, and proof that it is the decode that was recorded.

What is watched takes longer, so it is never what is timed. Knows nothing of files
(`trace.py`), nor of how a trace is shown (`replay.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import PluginError
from l2pd_bench.hosts.base import Host
from l2pd_bench.step import Told
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.tasks.base import Item
from l2pd_bench.trace import Trace, TraceStep

OnStep = Callable[[int, TraceStep], None]  # (place in the batch, its step)


class Batch(NamedTuple):
    """Samples that are decoded together, and what came out when they were."""

    items: Sequence[Item]
    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    references: Sequence[Sequence[int]] | None  # see `engine.decode`
    output_ids: Sequence[Sequence[int]]
    slots: int  # how many of them at a time


class Tracer:
    """Turns what the engine tells of `rows` canvases into steps; the observer of one decode.

    `steps` are those of each row, in order. `on_step` is told of each at once.
    """

    def __init__(self, host: Host, rows: int, gen_length: int, on_step: OnStep | None = None) -> None:
        self.steps: list[list[TraceStep]] = [[] for _ in range(rows)]
        self._mask = host.mask_id
        self._regions = [[host.mask_id] * gen_length for _ in range(rows)]  # as last told
        self._on_step = on_step

    def __call__(self, told: Told) -> None:
        """Note one row's step: what is in its block now and was not before."""
        first, stop = told.block.start - told.start, told.block.stop - told.start
        region = self._regions[told.row]
        before, region[first : first + len(told.ids)] = region[first : first + len(told.ids)], told.ids
        changed = [i for i, (old, new) in enumerate(zip(before, told.ids, strict=True)) if old != new]
        filled = [i for i in changed if told.ids[i] != self._mask]
        sure = told.confidence.tolist()
        step = TraceStep(
            block=(first, stop),
            columns=[first + i for i in filled],
            tokens=[told.ids[i] for i in filled],
            confidences=[sure[i] for i in filled],
            remasked=[first + i for i in changed if told.ids[i] == self._mask],
            end=told.end - told.start,
        )
        self.steps[told.row].append(step)
        if self._on_step is not None:
            self._on_step(told.row, step)


def trace_batch(
    host: Host, strategy: Strategy, settings: DecodeSettings, batch: Batch, on_step: OnStep | None = None
) -> list[Trace]:
    """The traces of a batch that was decoded before, in its order.

    Raises PluginError if a sample comes out otherwise this time.
    """
    tracer = Tracer(host, len(batch.items), settings.gen_length, on_step)
    again = decode(host, strategy, batch.prompts, batch.seeds, settings, batch.references, tracer, slots=batch.slots)
    others = [
        item.doc_id
        for item, sample, ids in zip(batch.items, again.samples, batch.output_ids, strict=True)
        if sample.output_ids != list(ids)
    ]
    if others:
        raise PluginError(
            f"strategy '{strategy.name}': got other tokens for {', '.join(others)} when decoding the same batch once "
            "more, expected the same; a strategy must draw nothing but with view.uniform, and remember nothing "
            "from one batch to the next (and a device may sum in another order)"
        )
    return [
        Trace(
            doc_id=item.doc_id,
            prompt="\n".join(filter(None, (item.prompt, item.prefix))),
            gen_length=settings.gen_length,
            vocabulary={token: host.decode([token]) for step in steps for token in step.tokens},
            steps=steps,
        )
        for item, steps in zip(batch.items, tracer.steps, strict=True)
    ]
