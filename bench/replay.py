"""Shows how a recorded sample was decoded: its trace, or the sample decoded once more where there is none.

Two runs go step by step beside each other. What is shown leads to the recorded tokens,
or it is not shown. Nothing is written.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.picture import MASK, SPECIAL, Picture, plain_line, visible
from l2pd_bench.records import Run, load_runs
from l2pd_bench.schema import Sample
from l2pd_bench.trace import TRACES, Trace, read_traces

STEP_S = 0.2  # how long a step stays, at speed 1
LEGEND = f"colour: from the first step (violet) to the last (orange), grey where unsure; {MASK} mask, {SPECIAL} special"
_PROMPT = 300  # characters of a prompt's end to show
_NEAR = 3  # doc_ids to name, where one is unknown


@dataclass(frozen=True)
class Take:
    """One sample of one run, and how it was decoded."""

    run: Run
    sample: Sample
    trace: Trace

    @property
    def title(self) -> str:
        """Strategy, what of the setting a decode depends on, and the sample."""
        setting = self.run.manifest.protocol
        return (
            f"{self.run.manifest.strategy.spec}, cache {setting['cache']}, EoT {setting['eot']}: {self.sample.doc_id}"
        )

    @property
    def outcome(self) -> str:
        """How it ended, in a line."""
        graded = f"{'right' if self.sample.correct else 'wrong'}, " if self.run.manifest.graded else ""
        return f"{graded}{self.sample.nfe.total} forwards, {self.sample.tokens.net} tokens"


def find_takes(folders: Sequence[Path], doc_id: str, *, data_dir: Path | None = None) -> list[Take]:
    """The sample `doc_id` (of which the part behind the last slash will do) of the runs in these folders.

    Where its steps are not recorded, it is decoded once more; `data_dir` is where its
    task's items are, then. Raises UsageError for what is not recorded and for runs of
    different items, RecordError for steps that do not lead to the recorded tokens.
    """
    runs = [_one_run(folder) for folder in folders]
    for name in ("task", "data_hash"):
        for run in runs[1:]:
            if (a := runs[0].manifest.protocol[name]) != (b := run.manifest.protocol[name]):
                raise UsageError(f"replay: got runs of {name} '{a}' and '{b}', expected runs of the same items")
    samples = [_find(run, doc_id) for run in runs]
    return [Take(run, sample, _trace(run, sample, data_dir)) for run, sample in zip(runs, samples, strict=True)]


def leads_to(trace: Trace, sample: Sample) -> bool:
    """Whether a trace can be shown, and fills the canvas with the sample's tokens in as many forwards."""
    canvas: dict[int, int] = {}
    end = 0
    for step in trace.steps:
        is_whole = len(step.columns) == len(step.tokens) == len(step.confidences)
        if not is_whole or not all(0 <= column < trace.gen_length for column in (*step.columns, *step.remasked)):
            return False
        if not all(0 <= confidence <= 1 for confidence in step.confidences) or set(step.tokens) - set(trace.vocabulary):
            return False
        canvas |= dict(zip(step.columns, step.tokens, strict=True))
        canvas = {column: token for column, token in canvas.items() if column not in step.remasked}
        end = step.end
    is_of_sample = (end, len(trace.steps)) == (len(sample.output_ids), sample.nfe.total)
    return is_of_sample and [canvas.get(column) for column in range(end)] == sample.output_ids


def play(takes: Sequence[Take], console: Console, *, speed: float = 1.0) -> None:
    """Fill the canvases in the terminal, in lockstep, `speed` times as fast as usual. Ctrl-C ends it."""
    require_speed(speed)
    pictures = [picture_of(take) for take in takes]
    sides = Table.grid(expand=True)
    for _ in pictures:
        sides.add_column(ratio=1)
    sides.add_row(*pictures)
    console.print(Text(f"prompt: {_end(takes[0].trace.prompt)}"))
    with suppress(KeyboardInterrupt), Live(Group(sides, Text(LEGEND)), console=console, auto_refresh=False) as live:
        live.refresh()
        for number in range(max(len(take.trace.steps) for take in takes)):
            sleep(STEP_S / speed)
            for take, picture in zip(takes, pictures, strict=True):
                if number < len(take.trace.steps):
                    picture.apply(take.trace.steps[number])
            live.refresh()
    for take in takes:
        console.print(Text(f"{visible(take.title)}: {take.outcome}"))


def picture_of(take: Take) -> Picture:
    """The empty canvas of a take."""
    vocabulary = take.trace.vocabulary
    return Picture(take.title, take.trace.gen_length, vocabulary.__getitem__, len(take.trace.steps))


def plain(takes: Sequence[Take]) -> Iterator[str]:
    """The same in lines of text: one for each step; of two takes, A's and B's in turn."""
    names = [f"{letter} " for letter in "AB"] if len(takes) > 1 else [""]
    named = list(zip(names, takes, strict=True))
    yield f"prompt: {takes[0].trace.prompt!r}"
    for name, take in named:
        yield f"{name}{visible(take.title)}"
    for number in range(max(len(take.trace.steps) for take in takes)):
        for name, take in named:
            if number < len(take.trace.steps):
                yield f"{name}{plain_line(take.trace, number)}"
    for name, take in named:
        yield f"{name}text: {take.sample.full_text!r} ({take.outcome})"


def require_speed(speed: float) -> None:
    """Raise UsageError for a pace that is none."""
    if not 0 < speed < math.inf:
        raise UsageError(f"speed: got {speed}, expected a finite number above 0")


def _one_run(folder: Path) -> Run:
    runs = load_runs(folder)
    if len(runs) > 1:
        raise UsageError(
            f"replay: got '{folder}' with {len(runs)} runs, expected one run's folder, such as {runs[0].folder}"
        )
    return runs[0]


def _find(run: Run, doc_id: str) -> Sample:
    samples = {sample.doc_id: sample for sample in run.samples if sample.status == "ok"}
    found = {name.rpartition("/")[2]: sample for name, sample in samples.items()} | samples
    if doc_id not in found:
        near = [found[name].doc_id for name in difflib.get_close_matches(doc_id, found, n=2 * _NEAR, cutoff=0.0)]
        told = f"the nearest are {', '.join(list(dict.fromkeys(near))[:_NEAR])}" if near else "it has none at all"
        raise UsageError(f"doc_id: got '{doc_id}', which {run.folder} has not recorded; {told}")
    return found[doc_id]


def _trace(run: Run, sample: Sample, data_dir: Path | None) -> Trace:
    trace = read_traces(run.folder).get(sample.doc_id)
    if trace is None:
        from l2pd_bench.retrace import trace_again  # only this needs torch

        return trace_again(run, sample.doc_id, data_dir)
    if not leads_to(trace, sample):
        raise RecordError(
            f"{run.folder / TRACES}: the trace of '{sample.doc_id}' does not lead to the recorded tokens; remove the "
            "file, and repeat the run's command with --trace"
        )
    return trace


def _end(prompt: str) -> str:
    shown = visible(prompt)
    return shown if len(shown) <= _PROMPT else f"...{shown[-_PROMPT:]}"
