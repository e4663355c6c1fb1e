"""The decode that follows a timed one: the recorded batch once more, for its traces or to be watched.

It is outside of all clocks. Which batches there are, the records tell; what is done with
the traces is the runner's affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from l2pd_bench.cells import Cell
from l2pd_bench.job import Job
from l2pd_bench.memory import free, is_out_of_memory
from l2pd_bench.noise import sample_seed
from l2pd_bench.plan import Plan
from l2pd_bench.schema import Sample
from l2pd_bench.stopping import at_most
from l2pd_bench.tasks.base import Item
from l2pd_bench.trace import Trace
from l2pd_bench.tracer import Batch, trace_batch

if TYPE_CHECKING:
    from l2pd_bench.watch import Watch


def follow(job: Job, cell: Cell, items: Sequence[Item], plan: Plan, watch: Watch | None = None) -> list[Trace]:
    """Decode recorded items once more; the first of them may be watched.

    Raises PluginError if a sample comes out otherwise than it is recorded, and Overtime if it
    takes longer than the plan's timeout; but not where somebody watches, as every step waits then.
    """
    slots = cell.asked.batch_size
    while True:
        try:
            return _follow(job, cell, items, plan, slots, watch)
        except (MemoryError, RuntimeError) as error:
            if slots == 1 or not is_out_of_memory(error):
                raise
        slots //= 2  # as the worker does
        free(job.host.device)


def _follow(job: Job, cell: Cell, items: Sequence[Item], plan: Plan, slots: int, watch: Watch | None) -> list[Trace]:
    batch = Batch(
        items,
        [job.prompts[cell.asked.task.name, item.doc_id] for item in items],
        [sample_seed(plan.seed, item.doc_id) for item in items],
        cell.references(items),
        [cell.writer.samples[item.doc_id].output_ids for item in items],
        slots,
    )
    if watch is None:
        doing = f"{cell.asked.strategy.name} on {cell.asked.task.name}, {items[0].doc_id}, traced"
        decode_it = partial(trace_batch, job.host, cell.asked.strategy, cell.asked.settings, batch)
        return at_most(plan.timeout, doing, decode_it)
    title = f"{cell.writer.manifest.strategy.spec}  {items[0].doc_id}"
    with watch.showing(title, cell.asked.settings.gen_length, job.host) as on_step:
        return trace_batch(job.host, cell.asked.strategy, cell.asked.settings, batch, on_step)


def untraced(cell: Cell, items: Sequence[Item]) -> Iterator[list[Item]]:
    """Those of `items` that are recorded and not traced, with those that they were decoded with."""
    known = {item.doc_id: item for item in items}
    traced = cell.traces.done if cell.traces is not None else set()
    for samples in batches(cell.writer.samples.values()):
        batch = [known[sample.doc_id] for sample in samples if sample.doc_id in known and sample.status == "ok"]
        if any(item.doc_id not in traced for item in batch):
            yield batch


def batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """A run's samples, in their order, by the batches that they were decoded in."""
    for _, batch in groupby(samples, key=lambda sample: (sample.segment, sample.elapsed_s)):
        yield list(batch)
