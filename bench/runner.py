"""Runs a plan: strategies by tasks by settings, interleaved, resumable, one record per cell.

All cells of a task take turns batch by batch, in rotating order, so that a drift of the
machine hits all of them alike. The runner knows files and progress; how a canvas is
filled is the engine's affair, what a row means the report's.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from l2pd_bench.cells import Cell, find_references, turns
from l2pd_bench.engine import BatchDecoded, decode
from l2pd_bench.errors import BenchError, PluginError, UsageError
from l2pd_bench.follow import follow, untraced
from l2pd_bench.foreign import ForeignWatch
from l2pd_bench.hosts.base import Host
from l2pd_bench.job import Job, prepare_job, told, wanted_of
from l2pd_bench.measure import environment, git_state
from l2pd_bench.noise import sample_seed
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import protocol_of
from l2pd_bench.registry import task_spec
from l2pd_bench.sample_record import sample_record
from l2pd_bench.schema import Git, Manifest, Warmup
from l2pd_bench.seal import run_id
from l2pd_bench.tasks.base import Item, Task
from l2pd_bench.trace import TraceFile
from l2pd_bench.warmup import compare_alone, warm_up
from l2pd_bench.watch import Watch
from l2pd_bench.writer import new_session, open_run


class Session(NamedTuple):
    """One process at work: its name, when it began, and who else is on the device."""

    name: str
    began: float
    foreign: ForeignWatch


@dataclass(frozen=True)
class Outcome:
    """Where the records are, and how it went."""

    folders: list[Path]
    exit_code: int
    message: str


def execute(plan: Plan, *, command: str, restart: bool = False) -> Outcome:
    """Decode and grade what the plan asks for and is not recorded yet.

    Everything is checked and every record opened before the first forward.
    """
    return run_job(plan, prepare_job(plan), command=command, restart=restart)


def run_job(plan: Plan, job: Job, *, command: str, restart: bool = False) -> Outcome:
    """Run every strategy on every task under every setting of the plan.

    A strategy that raises fails its own cells; the others go on. Ctrl-C ends the run,
    dropping the batch under way; the same job continues it.
    """
    console = Console(stderr=True)
    host, items = job.host, job.items
    with ExitStack() as stack:
        cells: dict[str, list[Cell]] = {}
        machine, git = environment(), Git(**git_state())
        if job.grader is not None and job.grader.sandbox is not None:
            machine["sandbox"] = job.grader.sandbox.level
        for task in job.tasks:
            cells[task.name] = []
            for strategy, spec, setting, batch_size in wanted_of(plan, task, job.strategies):
                frontier = strategy.frontier()
                protocol = protocol_of(host, task, setting, frontier=frontier, seed=plan.seed, batch_size=batch_size)
                manifest = Manifest(
                    run_id=run_id(protocol.hash, spec.spec, spec.code_hash),
                    command=command,
                    protocol=asdict(protocol),
                    protocol_hash=protocol.hash,
                    task_spec=task_spec(task),
                    model_spec=plan.model,
                    strategy=told(strategy, spec),
                    environment=machine,
                    git=git,
                    planned=len(items[task.name]),
                    notes=_notes(host, task),
                )
                writer = stack.enter_context(open_run(plan.output, manifest, restart=restart))
                for notice in filter(None, (writer.recovered, writer.set_aside and f"set aside: {writer.set_aside}")):
                    console.print(f"note: {notice}", style="yellow", markup=False)
                traces = stack.enter_context(TraceFile(writer.folder)) if plan.trace else None
                cells[task.name].append(Cell(strategy, task, setting, batch_size, writer, traces))
            find_references(cells[task.name])
        return _run_cells(plan, job, cells, console, command)


def _run_cells(plan: Plan, job: Job, cells: dict[str, list[Cell]], console: Console, command: str) -> Outcome:
    items = job.items
    every = [cell for group in cells.values() for cell in group]
    left = sum(len(items[cell.task.name]) - len(cell.done(items[cell.task.name])) for cell in every)
    session = Session(new_session(), perf_counter(), ForeignWatch(job.host.device))
    untold: list[str] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SamplesPerSecond(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("decoding", total=left)
            watch = Watch(console, progress) if plan.watch else None
            if watch is not None and not left:
                console.print("note: nothing is left to decode, so there is nothing to watch; see `l2pd-bench replay`")
            for task in job.tasks:
                for cell, batch in turns(cells[task.name], items[task.name]):
                    progress.update(bar, description=f"{task.name} {cell.writer.manifest.strategy.spec}")
                    if cell.failed is None:
                        _run_batch(job, cell, batch, plan.seed, session)
                    if cell.failed is None and (watch is not None or cell.traces is not None):
                        _follow(job, cell, batch, plan.seed, session, watch)
                    progress.advance(bar, len(batch))
                    _note_foreign(cells[task.name], session.foreign.see())
                _note_foreign(cells[task.name], session.foreign.see(always=True))
                for cell in cells[task.name]:
                    if cell.failed is None and cell.writer.manifest.status != "finished":
                        cell.writer.finish("finished")
                for cell in cells[task.name]:
                    if cell.failed is None and cell.traces is not None:
                        progress.update(bar, description=f"{task.name} {cell.writer.manifest.strategy.spec}, traces")
                        untold += _catch_up(job, cell, cell.traces, plan.seed)
    except KeyboardInterrupt:
        for cell in every:
            if len(cell.done(items[cell.task.name])) < len(items[cell.task.name]):
                cell.writer.finish("interrupted")
        return Outcome([c.writer.folder for c in every], 130, f"interrupted; to continue: {command}")
    failures = [*(f"failed: {c.writer.folder}: {c.failed}" for c in every if c.failed is not None), *untold]
    return Outcome([c.writer.folder for c in every], 1 if failures else 0, "\n".join(failures))


def _run_batch(job: Job, cell: Cell, batch: Sequence[Item], seed: int, session: Session) -> None:
    """Decode, grade and record one batch; a strategy that raises fails the cell."""
    host, grader = job.host, job.grader
    ids = [job.prompts[cell.task.name, item.doc_id] for item in batch]
    seeds = [sample_seed(seed, item.doc_id) for item in batch]
    records = []
    with _failing(cell, session):
        references = cell.references(batch)

        def decode_rows(rows: slice) -> BatchDecoded:
            known = references and references[rows]
            return decode(host, cell.strategy, ids[rows], seeds[rows], cell.settings, known)

        if cell.segment < 0:
            warmup, warm = warm_up(lambda: decode_rows(slice(None)))
            alone = compare_alone(warm, lambda i: decode_rows(slice(i, i + 1)))
            cell.segment = cell.writer.start_segment(session.name, warmup, alone)
        decoded = decode_rows(slice(None))
        elapsed_s = perf_counter() - session.began
        records = [
            sample_record(
                host,
                item.doc_id,
                sample,
                decoded,
                stop=cell.task.stop,
                grade=partial(grader.grade, cell.task, item) if grader else None,
                prompt_tokens=len(prompt),
                gross=cell.settings.gen_length,
                segment=cell.segment,
                elapsed_s=elapsed_s,
            )
            for item, prompt, sample in zip(batch, ids, decoded.samples, strict=True)
        ]
    if cell.failed is None:
        cell.writer.append(records)


def _follow(job: Job, cell: Cell, batch: Sequence[Item], seed: int, session: Session, watch: Watch | None) -> None:
    """Decode a recorded batch once more, to write its steps down or to show them; other tokens fail the cell."""
    traces = []
    with _failing(cell, session):
        traces = follow(job, cell, batch, seed, watch)
    if cell.failed is None and cell.traces is not None:
        cell.traces.append(traces)


def _catch_up(job: Job, cell: Cell, file: TraceFile, seed: int) -> list[str]:
    """Trace what is recorded without a trace; what is wrong then is told, as it is not this run's."""
    for batch in untraced(cell, job.items[cell.task.name]):
        try:
            traces = follow(job, cell, batch, seed)
        except (PluginError, UsageError) as error:
            return [f"not traced: {cell.writer.folder}: {error}"]
        file.append(traces)
    return []


@contextmanager
def _failing(cell: Cell, session: Session) -> Iterator[None]:
    """What a strategy or a task raises fails the cell."""
    try:
        yield
    except BenchError as error:
        _fail(cell, str(error), session)
    except Exception as error:  # noqa: BLE001  # a plugin's own bug: it ends its row, with the place, and no other
        _fail(cell, f"{type(error).__name__}: {error} ({_place(error, cell)})", session)


def _note_foreign(cells: Sequence[Cell], programs: Sequence[str]) -> None:
    """Others on the device disturb every row that is being timed."""
    for cell in cells:
        if programs and cell.segment >= 0:
            cell.writer.note_foreign(programs)


def _fail(cell: Cell, message: str, session: Session) -> None:
    if cell.segment < 0:
        none = Warmup(samples=0, rounds=0, seconds=0.0, is_stable=False)
        cell.segment = cell.writer.start_segment(session.name, none)
    cell.failed = message
    cell.writer.finish("failed", message)


def _place(error: BaseException, cell: Cell) -> str:
    """The last line of the strategy's or the task's own file that an error passed through, else where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = {inspect.getsourcefile(type(cell.strategy)), inspect.getsourcefile(type(cell.task))}
    frame = next((f for f in reversed(frames) if f.filename in own), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _notes(host: Host, task: Task) -> list[str]:
    if not host.is_trained:
        return [f"model '{host.name}' has random weights: no answer was graded"]
    if host.trained_tasks is None or task.name in host.trained_tasks:
        return []
    return [f"model '{host.name}' was not trained for {task.name}: accuracy says nothing here"]


class _SamplesPerSecond(ProgressColumn):
    """Samples finished per second."""

    def render(self, task: Bar) -> Text:
        """The rate, once there is one."""
        return Text(f"{task.speed:.2f} samples/s" if task.speed else "")
