"""Runs a plan: strategies by tasks by settings, interleaved, resumable, one record per cell.

All cells of a task take turns batch by batch, in rotating order, so that a drift of the
machine hits all of them alike. The runner knows files and progress; how a canvas is
filled is the engine's affair, what a row means the report's.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from l2pd_bench.cells import Cell, find_references, turns
from l2pd_bench.engine import DecodeSettings, check_frontier, decode, prepare
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.grading import Grader
from l2pd_bench.hosts.base import Host
from l2pd_bench.items import choose_items
from l2pd_bench.measure import environment, git_state
from l2pd_bench.noise import sample_seed
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import protocol_of
from l2pd_bench.registry import StrategySpec, load_host, load_strategy, load_task, run_id, task_spec
from l2pd_bench.sample_record import sample_record
from l2pd_bench.schema import Git, Manifest, StrategyRecord
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.tasks.base import Item, Task
from l2pd_bench.writer import new_session, open_run

Prompts = dict[tuple[str, str], list[int]]  # by task and doc_id, as ids are a task's own


@dataclass(frozen=True)
class Job:
    """What a plan comes to, once everything is loaded: `items` and `prompts` are of the tasks by name."""

    host: Host
    strategies: list[tuple[Strategy, StrategySpec]]
    tasks: list[Task]
    items: dict[str, list[Item]]
    prompts: Prompts
    grader: Grader | None


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
    strategies = [load_strategy(text) for text in plan.strategy]
    _refuse_twice("strategy", plan.strategy, [spec.spec for _, spec in strategies])
    _refuse_blind([_told(strategy, spec) for strategy, spec in strategies])
    tasks, items = _tasks_and_items(plan, chat=False)
    settings = {task.name: list(_settings(plan, task)) for task in tasks}
    _refuse_impossible([strategy for strategy, _ in strategies], [s for group in settings.values() for s in group])
    host = load_host(plan.model, **plan.host_options)  # last, as it may take minutes
    if host.is_chat:
        tasks, items = _tasks_and_items(plan, chat=True)
    _prepare(host, [strategy for strategy, _ in strategies], [s for group in settings.values() for s, _ in group])
    grader = Grader(tasks, level=plan.sandbox, unsafe=plan.unsafe_code) if host.is_trained else None
    prompts = {
        (task.name, i.doc_id): host.encode(i.prompt, i.prefix, chat=task.prompt_format == "chat")
        for task in tasks
        for i in items[task.name]
    }
    return run_job(plan, Job(host, strategies, tasks, items, prompts, grader), command=command, restart=restart)


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
            for (setting, batch_size), (strategy, spec) in product(_settings(plan, task), job.strategies):
                frontier = strategy.frontier()
                protocol = protocol_of(host, task, setting, frontier=frontier, seed=plan.seed, batch_size=batch_size)
                manifest = Manifest(
                    run_id=run_id(protocol.hash, spec.spec, spec.code_hash),
                    command=command,
                    protocol=asdict(protocol),
                    protocol_hash=protocol.hash,
                    task_spec=task_spec(task),
                    strategy=_told(strategy, spec),
                    environment=machine,
                    git=git,
                    planned=len(items[task.name]),
                    notes=_notes(host, task),
                )
                writer = stack.enter_context(open_run(plan.output, manifest, restart=restart))
                for notice in filter(None, (writer.recovered, writer.set_aside and f"set aside: {writer.set_aside}")):
                    console.print(f"note: {notice}", style="yellow", markup=False)
                cells[task.name].append(Cell(strategy, task, setting, batch_size, writer))
            find_references(cells[task.name])
        return _run_cells(plan, job, cells, console, command)


def _run_cells(plan: Plan, job: Job, cells: dict[str, list[Cell]], console: Console, command: str) -> Outcome:
    items = job.items
    every = [cell for group in cells.values() for cell in group]
    left = sum(len(items[cell.task.name]) - len(cell.done(items[cell.task.name])) for cell in every)
    session = new_session()
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
            for task in job.tasks:
                for cell, batch in turns(cells[task.name], items[task.name]):
                    progress.update(bar, description=f"{task.name} {cell.writer.manifest.strategy.spec}")
                    if cell.failed is None:
                        _run_batch(job, cell, batch, plan.seed, session)
                    progress.advance(bar, len(batch))
                for cell in cells[task.name]:
                    if cell.failed is None and cell.writer.manifest.status != "finished":
                        cell.writer.finish("finished")
    except KeyboardInterrupt:
        for cell in every:
            if len(cell.done(items[cell.task.name])) < len(items[cell.task.name]):
                cell.writer.finish("interrupted")
        return Outcome([c.writer.folder for c in every], 130, f"interrupted; to continue: {command}")
    failures = [f"failed: {c.writer.folder}: {c.failed}" for c in every if c.failed is not None]
    return Outcome([c.writer.folder for c in every], 1 if failures else 0, "\n".join(failures))


def _run_batch(job: Job, cell: Cell, batch: Sequence[Item], seed: int, session: str) -> None:
    """Decode, grade and record one batch; a strategy that raises fails the cell."""
    host, grader = job.host, job.grader
    ids = [job.prompts[cell.task.name, item.doc_id] for item in batch]
    seeds = [sample_seed(seed, item.doc_id) for item in batch]
    try:
        references = cell.references(batch)
        if cell.segment < 0:
            warmup = decode(host, cell.strategy, ids, seeds, cell.settings, references)
            cell.segment = cell.writer.start_segment(session, warmup_samples=len(batch), warmup_seconds=warmup.decode_s)
        decoded = decode(host, cell.strategy, ids, seeds, cell.settings, references)
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
            )
            for item, prompt, sample in zip(batch, ids, decoded.samples, strict=True)
        ]
    except BenchError as error:
        _fail(cell, str(error), session)
        return
    except Exception as error:  # noqa: BLE001  # a plugin's own bug: it ends its row, with the place, and no other
        _fail(cell, f"{type(error).__name__}: {error} ({_place(error, cell)})", session)
        return
    cell.writer.append(records)


def _fail(cell: Cell, message: str, session: str) -> None:
    if cell.segment < 0:
        cell.segment = cell.writer.start_segment(session, warmup_samples=0, warmup_seconds=0.0)
    cell.failed = message
    cell.writer.finish("failed", message)


def _tasks_and_items(plan: Plan, *, chat: bool) -> tuple[list[Task], dict[str, list[Item]]]:
    """The tasks as a host that chats, or one that does not, is asked them; and the items to decode."""
    tasks = [load_task(text, data_dir=plan.data_dir, chat=chat) for text in plan.task]
    _refuse_twice("task", plan.task, [task.name for task in tasks])
    chosen = {task.name: choose_items(task, limit=plan.limit, ids=plan.ids, subset=plan.subset) for task in tasks}
    return tasks, chosen


def _settings(plan: Plan, task: Task) -> Iterator[tuple[DecodeSettings, int]]:
    lengths = plan.gen_length or [task.gen_length]
    for length, cache, eot, batch_size in product(lengths, plan.cache, plan.eot, plan.batch_size):
        yield DecodeSettings(length, plan.block_length, cache, eot, plan.temperature), batch_size


def _told(strategy: Strategy, spec: StrategySpec) -> StrategyRecord:
    """What every record says of a strategy."""
    return StrategyRecord(**{**asdict(spec), "params": dict(spec.params)}, deployable=not strategy.uses_reference)


def _refuse_blind(strategies: Sequence[StrategyRecord]) -> None:
    """Raise UsageError for a strategy that is shown the baseline's decode, without the baseline."""
    for strategy in strategies:
        if not strategy.deployable and not any(other.is_baseline for other in strategies):
            raise UsageError(
                f"strategy '{strategy.spec}': got no decode of fixed-step to go by, which it needs in the same "
                "setting; add --strategy fixed-step (what is recorded is not decoded again)"
            )


def _prepare(host: Host, strategies: Sequence[Strategy], settings: Sequence[DecodeSettings]) -> None:
    """Load the strategies' own models; a BenchError for one that is missing, or is for another model or setting."""
    for strategy, setting in product(strategies, set(settings)):
        try:
            prepare(host, strategy, setting)
        except BenchError:
            raise
        except Exception:  # noqa: BLE001  # a plugin's own bug: it raises again when decoding, and ends its row
            pass


def _refuse_impossible(strategies: Sequence[Strategy], settings: Sequence[tuple[DecodeSettings, int]]) -> None:
    """Raise UsageError for a strategy that cannot be decoded in one of the settings."""
    for strategy in strategies:
        for setting, batch_size in settings:
            check_frontier(strategy, setting, batch_size)


def _refuse_twice(what: str, written: Sequence[str], specs: Sequence[str]) -> None:
    for i, spec in enumerate(specs):
        if spec in specs[:i]:
            raise UsageError(f"{what}: '{written[specs.index(spec)]}' and '{written[i]}' are both '{spec}'; give one")


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
