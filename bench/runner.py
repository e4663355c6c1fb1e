"""Runs a plan: strategies by tasks by settings, interleaved, resumable, one record per cell.

All cells of a task take turns batch by batch, in rotating order, so that a drift of the
machine hits all of them alike. The runner knows files and progress; how a canvas is
filled is the engine's affair, what a row means the report's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from l2pd_bench.cells import Cell, find_references
from l2pd_bench.errors import UsageError
from l2pd_bench.executor import Executor, LocalExecutor
from l2pd_bench.follow import batches, follow, untraced
from l2pd_bench.job import Agenda, Job, prepare_job, told
from l2pd_bench.measure import git_state
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import HostFacts
from l2pd_bench.records import read_manifest, run_folder
from l2pd_bench.registry import task_spec
from l2pd_bench.rows import Row, rows_of
from l2pd_bench.schema import Git, Manifest
from l2pd_bench.stopping import Stop, stoppable
from l2pd_bench.tasks.base import Item, Task
from l2pd_bench.trace import TraceFile
from l2pd_bench.watch import Watch
from l2pd_bench.worker import NO_WARMUP, Turn, WorkerName, telling
from l2pd_bench.writer import open_run


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
    if plan.executor == "ray":
        from l2pd_bench.ray_executor import ray_executor

        far = ray_executor(plan)
        return run_agenda(plan, far.agenda, far, command=command, restart=restart)
    return run_job(plan, prepare_job(plan), command=command, restart=restart)


def run_job(plan: Plan, job: Job, *, command: str, restart: bool = False) -> Outcome:
    """The same for what is loaded in this process."""
    executor = LocalExecutor(job, plan.seed, plan.timeout)
    return run_agenda(plan, job.agenda(), executor, command=command, restart=restart, job=job)


def run_agenda(
    plan: Plan, agenda: Agenda, executor: Executor, *, command: str, restart: bool = False, job: Job | None = None
) -> Outcome:
    """Run every strategy on every task under every setting of the plan.

    A strategy that raises fails its own cells; the others go on. Ctrl-C or SIGTERM ends the
    run after the batch under way, a Ctrl-C after that at once; the same job continues it.
    `job` is what this process has loaded, for the decodes that follow the timed ones.
    """
    console = Console(stderr=True)
    with ExitStack() as stack:
        stack.callback(executor.close)
        cells: dict[str, list[Cell]] = {task.name: [] for task in agenda.tasks}
        git = Git(**git_state())
        rows = [(row, _manifest(plan, agenda, row, command, git)) for row in rows_of(plan, agenda)]
        if not restart:
            for _, manifest in rows:  # all of them before anything is written
                _refuse_other_threads(plan, manifest)
        for row, manifest in rows:
            writer = stack.enter_context(open_run(plan.output, manifest, restart=restart))
            for notice in filter(None, (writer.recovered, writer.set_aside and f"set aside: {writer.set_aside}")):
                console.print(f"note: {notice}", style="yellow", markup=False)
            traces = stack.enter_context(TraceFile(writer.folder)) if plan.trace else None
            cells[row.asked.task.name].append(Cell(row.asked, writer, traces))
        for group in cells.values():
            find_references(group)
        return _run_cells(plan, agenda, cells, executor, console, command, job)


def _manifest(plan: Plan, agenda: Agenda, row: Row, command: str, git: Git) -> Manifest:
    task = row.asked.task
    return Manifest(
        run_id=row.run_id,
        command=command,
        protocol=asdict(row.protocol),
        protocol_hash=row.protocol.hash,
        task_spec=task_spec(task),
        model_spec=plan.model,
        strategy=told(row.asked.strategy, row.spec),
        environment=agenda.machine,
        git=git,
        planned=len(agenda.items[task.name]),
        notes=_notes(agenda.facts, task),
    )


def _refuse_other_threads(plan: Plan, manifest: Manifest) -> None:
    """Raise UsageError where a run would be continued with another number of threads than it began with.

    An accelerator's seconds do not depend on it, and a finished run of as many items has none left to time.
    """
    folder = run_folder(plan.output, manifest)
    known = read_manifest(folder)
    if known is None or (known.status, known.planned) == ("finished", manifest.planned):
        return
    began, here = known.environment.get("torch_threads"), manifest.environment["torch_threads"]
    if began == here or manifest.protocol["device"] != "cpu":
        return
    local = "use --executor local and " if plan.executor == "ray" else ""
    raise UsageError(
        f"{folder}: got {here} torch threads, expected {began}, as when this run began: its seconds would be of "
        f"unlike clocks; {local}set OMP_NUM_THREADS={began}, begin anew with --restart (the old records are "
        "renamed aside), or record elsewhere with --output"
    )


def _run_cells(
    plan: Plan,
    agenda: Agenda,
    cells: dict[str, list[Cell]],
    executor: Executor,
    console: Console,
    command: str,
    job: Job | None,
) -> Outcome:
    items = agenda.items
    every = [cell for group in cells.values() for cell in group]
    left = sum(len(items[cell.asked.task.name]) - len(cell.done(items[cell.asked.task.name])) for cell in every)
    untold: list[str] = []

    def is_left(cell: Cell) -> bool:
        wanted = items[cell.asked.task.name]
        return cell.failed is None and len(cell.done(wanted)) < len(wanted)

    def say(under_way: str) -> None:
        told = f"stopping: what is under way is finished and written ({under_way}); Ctrl-C again drops it"
        console.print(told, style="yellow", markup=False, soft_wrap=True)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SamplesPerSecond(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress, stoppable(executor.stop, say) as stop:
            bar = progress.add_task("decoding", total=left)
            watch = Watch(console, progress) if plan.watch else None
            if watch is not None and not left:
                console.print("note: nothing is left to decode, so there is nothing to watch; see `l2pd-bench replay`")
            for task in agenda.tasks:
                for done in executor.run(cells[task.name], items[task.name]):
                    cell = done.cell
                    progress.update(bar, description=f"{task.name} {cell.writer.manifest.strategy.spec}")
                    if done.turn is not None:
                        _record(cell, done.worker, done.turn)
                        _note_foreign(cells[task.name], done.worker, done.turn.foreign)
                        if job is not None and cell.failed is None and (watch is not None or cell.traces is not None):
                            _follow(job, cell, done.batch, done.turn, plan, watch)
                    progress.advance(bar, len(done.batch))
                for worker, programs in executor.foreign():
                    _note_foreign(cells[task.name], worker, programs)
                for cell in cells[task.name]:
                    is_over = cell.failed is None and not (stop.requested and is_left(cell))
                    if is_over and cell.writer.manifest.status != "finished":
                        cell.writer.finish("finished")
                _end_if_asked(stop, any(map(is_left, cells[task.name])))
                for cell in cells[task.name]:
                    if job is not None and cell.failed is None and cell.traces is not None:
                        progress.update(bar, description=f"{task.name} {cell.writer.manifest.strategy.spec}, traces")
                        untold += _catch_up(job, cell, cell.traces, plan, stop)
    except KeyboardInterrupt:
        for cell in every:
            if cell.failed is None and cell.writer.manifest.status != "finished":
                cell.writer.finish("interrupted" if is_left(cell) else "finished")
        return Outcome([c.writer.folder for c in every], 130, f"interrupted; to continue: {command}")
    failures = [*(f"failed: {c.writer.folder}: {c.failed}" for c in every if c.failed is not None), *untold]
    lacking = [
        f"out of memory: {cell.writer.folder}: {count} samples, which count as wrong; to try them again: {command}"
        for cell in every
        if (count := sum(sample.status == "oom" for sample in cell.writer.samples.entries.values()))
    ]
    return Outcome([c.writer.folder for c in every], 1 if failures else 0, "\n".join([*failures, *lacking]))


def _record(cell: Cell, worker: WorkerName, turn: Turn) -> None:
    """Write down what came of a batch; the first of a worker begins a segment, and so does a warm-up.

    What a worker was still decoding when another's batch failed the row is kept.
    """
    if not turn.samples and (turn.error is None or cell.failed is not None):
        return  # the worker was stopped before, or is not the first to say so
    if turn.warmup is not None or worker.session not in cell.segments:
        cell.segments[worker.session] = cell.writer.start_segment(
            worker.session, turn.warmup or NO_WARMUP, turn.alone, pid=worker.pid, hostname=worker.hostname
        )
    segment = cell.segments[worker.session]
    for note in turn.notes:  # first, so that no crash leaves samples that look undisturbed
        cell.writer.note_error(segment, note)
    if turn.error is None:
        cell.writer.append([replace(sample, segment=segment) for sample in turn.samples])
    else:
        cell.failed, cell.failed_in = turn.error, segment
    if cell.failed is not None:  # said again behind late samples, which may have begun a segment
        cell.writer.finish("failed", cell.failed, cell.failed_in)


def _follow(job: Job, cell: Cell, batch: Sequence[Item], turn: Turn, plan: Plan, watch: Watch | None) -> None:
    """Decode what was recorded of a batch once more, to write its steps down or to show them.

    It takes as many items at once as the first time. Other tokens fail the cell.
    """
    errors: list[str] = []
    traces = []
    known = {item.doc_id: item for item in batch}
    with telling(errors, cell.asked):
        for together in batches(sample for sample in turn.samples if sample.status == "ok"):
            traces += follow(job, cell, [known[sample.doc_id] for sample in together], plan, watch)
    if errors:
        cell.failed = errors[0]
        cell.writer.finish("failed", cell.failed)
    elif cell.traces is not None:
        cell.traces.append(traces)


def _end_if_asked(stop: Stop, is_something_left: bool) -> None:
    """Somebody asked for the end, and it has come: from here on as if Ctrl-C were pressed now."""
    if stop.requested and is_something_left:
        raise KeyboardInterrupt


def _catch_up(job: Job, cell: Cell, file: TraceFile, plan: Plan, stop: Stop) -> list[str]:
    """Trace what is recorded without a trace; what is wrong then is told, as it is not this run's."""
    for batch in untraced(cell, job.items[cell.asked.task.name]):
        _end_if_asked(stop, True)
        errors: list[str] = []
        with telling(errors, cell.asked):
            file.append(follow(job, cell, batch, plan))
        if errors:
            return [f"not traced: {cell.writer.folder}: {errors[0]}"]
    return []


def _note_foreign(cells: Sequence[Cell], worker: WorkerName, programs: Sequence[str]) -> None:
    """Others on a worker's device disturb every row that it times."""
    for cell in cells:
        if programs and worker.session in cell.segments:
            cell.writer.note_foreign(programs, cell.segments[worker.session])


def _notes(host: HostFacts, task: Task) -> list[str]:
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
