"""Grades recorded answers again: by the same grader, to see that it says the same, or by another filter.

Nothing is generated, and no record is changed. A grading that differs is another setting,
so its scores are a run of their own, beside the first, with the first's times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import track

from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.grading import Grader
from l2pd_bench.hosts.base import Host
from l2pd_bench.items import choose_items
from l2pd_bench.records import Run, load_runs, totals
from l2pd_bench.registry import load_host, load_task, task_spec
from l2pd_bench.sample_record import answer_tokens
from l2pd_bench.schema import Sample
from l2pd_bench.seal import hash_of, run_id
from l2pd_bench.tasks.base import Item, Task, Verdict, cut_at
from l2pd_bench.writer import write_run

SERIAL = 8  # so few answers are not worth other processes


@dataclass(frozen=True)
class ScoreOptions:
    """What a `score` command asks for."""

    task: str | None = None  # the task's spec with another filter; None: as recorded
    data_dir: Path | None = None
    output: Path | None = None  # None: where the run is
    model: str | None = None  # to count tokens with; None: as recorded
    workers: int = os.cpu_count() or 1
    sandbox: str | None = None
    unsafe_code: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for numbers out of range."""
        if self.workers < 1:
            raise UsageError(f"workers: got {self.workers}, expected at least 1")


@dataclass(frozen=True)
class Scored:
    """What came of one run: where the new record is (None: the grading is the recorded one), and what has changed."""

    run: Run
    folder: Path | None
    answers: int
    changed: list[str]  # doc_ids whose score is another

    @property
    def message(self) -> str:
        """What has changed, in a line."""
        few = f" ({', '.join(self.changed[:5])}{', ...' if len(self.changed) > 5 else ''})" if self.changed else ""
        told = f"{self.run.folder}: {len(self.changed)} of {self.answers} scores are others{few}"
        return f"{told}; written: {self.folder}" if self.folder else told


def score(results: Path, options: ScoreOptions, console: Console | None = None) -> Iterator[Scored]:
    """Grade every run at or under `results` again, those of one task at a time.

    Raises UsageError for runs that were never graded or whose items are not at hand.
    """
    console = console or Console(stderr=True)
    runs = load_runs(results)
    for run in runs:
        if not run.manifest.graded:
            raise UsageError(f"results: {run.folder} was not graded ({'; '.join(run.manifest.notes)}); leave it out")
    for spec in dict.fromkeys(options.task or run.manifest.task_spec for run in runs):
        task = load_task(spec, data_dir=options.data_dir)
        items = {item.doc_id: item for item in choose_items(task)}
        mine = [run for run in runs if (options.task or run.manifest.task_spec) == spec]
        for run in mine:
            _refuse_other_items(run, task)
        with _graders(spec, task, options) as grade_all:
            for run in mine:
                yield _score_run(run, task, items, grade_all, options, console)


def _score_run(
    run: Run, task: Task, items: dict[str, Item], grade_all: GradeAll, options: ScoreOptions, console: Console
) -> Scored:
    done = [sample for sample in run.samples if sample.status == "ok"]
    texts = [cut_at(sample.full_text, task.stop) for sample in done]
    pairs = [(items[sample.doc_id], text) for sample, text in zip(done, texts, strict=True)]
    verdicts = list(
        track(
            grade_all(pairs),
            description=str(run.folder),
            total=len(pairs),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    )
    changed = [s.doc_id for s, verdict in zip(done, verdicts, strict=True) if s.score != verdict.score]
    protocol = {**run.manifest.protocol, "grading": task.grading}
    if protocol == run.manifest.protocol:
        return Scored(run, None, len(done), changed)
    counter = _TokenCounter(run, options)
    new = {s.doc_id: _with(s, t, v, counter) for s, t, v in zip(done, texts, verdicts, strict=True)}
    samples = [new.get(sample.doc_id, sample) for sample in run.samples]
    old = run.manifest
    manifest = replace(
        old,
        protocol=protocol,
        protocol_hash=hash_of(protocol),
        run_id=run_id(hash_of(protocol), old.strategy.spec, old.strategy.code_hash),
        task_spec=task_spec(task),
        notes=[*old.notes, f"graded again from run {old.run_id}, whose grading was: {old.protocol['grading']}"],
        totals=totals(samples) if old.totals else None,
    )
    root = options.output or run.folder.parents[1]
    return Scored(run, write_run(root, manifest, samples), len(done), changed)


def _with(sample: Sample, text: str, verdict: Verdict, counter: _TokenCounter) -> Sample:
    tokens = sample.tokens
    if text != sample.text:
        tokens = replace(tokens, answer=answer_tokens(counter.host, sample.output_ids[: tokens.net], text))
    return replace(
        sample, text=text, answer=verdict.answer, correct=verdict.correct, score=verdict.score, tokens=tokens
    )


class _TokenCounter:
    """The run's model, loaded if another stop string makes another answer text, whose tokens must be counted."""

    def __init__(self, run: Run, options: ScoreOptions) -> None:
        self._name = options.model or str(run.manifest.protocol["model"])
        self._tokenizer_of = str(run.manifest.protocol["model"])

    @cached_property
    def host(self) -> Host:
        """The host; its weights are not needed."""
        try:
            return load_host(self._name, device="cpu")
        except UsageError as error:
            raise UsageError(
                f"model: got other answer texts, whose tokens must be counted by the tokenizer of "
                f"'{self._tokenizer_of}': {error}; name it with --model"
            ) from error


def _refuse_other_items(run: Run, task: Task) -> None:
    protocol = run.manifest.protocol
    if task.name != protocol["task"]:
        raise UsageError(f"task: got '{task.name}' for {run.folder}, which is of task '{protocol['task']}'")
    if task.data_hash != protocol["data_hash"]:
        raise UsageError(
            f"task: {run.folder} was decoded from other items or prompts than those of '{task_spec(task)}' now "
            f"(data hash {str(protocol['data_hash'])[:8]}, got {task.data_hash[:8]}); give the same --data-dir and form"
        )


# ------------------------------------------------------------------ in several processes

GradeAll = Callable[[Sequence[tuple[Item, str]]], Iterator[Verdict]]
_WORKER: dict[str, tuple[Task, Grader]] = {}


@contextmanager
def _graders(spec: str, task: Task, options: ScoreOptions) -> Iterator[GradeAll]:
    """What grades many answers, in order: here, or in other processes, as some graders need a main thread."""
    grader = Grader([task], level=options.sandbox, unsafe=options.unsafe_code)

    def here(pairs: Sequence[tuple[Item, str]]) -> Iterator[Verdict]:
        return (grader.grade(task, item, text) for item, text in pairs)

    if options.workers == 1:
        yield here
        return
    begin = partial(_begin, spec, options)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"), initializer=begin) as pool:
        yield lambda pairs: here(pairs) if len(pairs) <= SERIAL else _graded_in(pool, pairs)


def _graded_in(pool: ProcessPoolExecutor, pairs: Sequence[tuple[Item, str]]) -> Iterator[Verdict]:
    try:
        yield from pool.map(_grade, pairs)
    except BrokenProcessPool as broken:
        raise BenchError(
            "score: a process that graded was killed, expected it to live (is memory short?); nothing is recorded of "
            "this run's new scores: repeat the command, perhaps with fewer --workers"
        ) from broken


def _begin(spec: str, options: ScoreOptions) -> None:
    task = load_task(spec, data_dir=options.data_dir)
    _WORKER["mine"] = task, Grader([task], level=options.sandbox, unsafe=options.unsafe_code)


def _grade(pair: tuple[Item, str]) -> Verdict:
    task, grader = _WORKER["mine"]
    return grader.grade(task, *pair)
