"""How a recorded sample was decoded, where its steps were not written down: by decoding it again, as recorded."""

from __future__ import annotations

from pathlib import Path

from l2pd_bench.again import BASELINE, plan_of, prepare_same
from l2pd_bench.engine import decode
from l2pd_bench.errors import PluginError, RecordError
from l2pd_bench.follow import batches
from l2pd_bench.job import wanted_of
from l2pd_bench.noise import sample_seed
from l2pd_bench.records import Run
from l2pd_bench.trace import Trace
from l2pd_bench.tracer import Batch, trace_batch


def trace_again(run: Run, doc_id: str, data_dir: Path | None = None) -> Trace:
    """The trace of a sample of `run`, decoded with those that it was decoded with.

    Raises UsageError for what cannot be repeated here, RecordError if other tokens come out.
    """
    samples = next(batch for batch in batches(run.samples) if doc_id in [sample.doc_id for sample in batch])
    ids = [sample.doc_id for sample in samples if sample.status == "ok"]
    # Nothing is graded, so no sandbox is needed.
    plan, _ = plan_of([run], ids, {"data_dir": data_dir, "unsafe_code": True})
    job = prepare_same(plan, [run])
    (task,) = job.tasks
    items = {item.doc_id: item for item in job.items[task.name]}
    wanted = {spec.spec: (strategy, at, size) for strategy, spec, at, size in wanted_of(plan, task, job.strategies)}
    strategy, settings, slots = wanted[run.manifest.strategy.spec]
    prompts, seeds = [job.prompts[task.name, i] for i in ids], [sample_seed(plan.seed, i) for i in ids]
    references = None
    if strategy.uses_reference:
        baseline = decode(job.host, wanted[BASELINE][0], prompts, seeds, settings, slots=slots)
        references = [sample.output_ids for sample in baseline.samples]
    output_ids = [sample.output_ids for sample in samples if sample.status == "ok"]
    batch = Batch([items[i] for i in ids], prompts, seeds, references, output_ids, slots)
    try:
        traces = trace_batch(job.host, strategy, settings, batch)
    except PluginError as error:
        raise RecordError(
            f"{run.folder}: '{doc_id}' cannot be shown, as its steps are not recorded, and here it is decoded "
            f"otherwise than there ({error}); record steps with `l2pd-bench run --trace`"
        ) from error
    return traces[ids.index(doc_id)]
