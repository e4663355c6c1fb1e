"""`run --trace` and `run --watch`: a second decode, outside of all clocks, that changes no record."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from l2pd_bench import follow, runner, watch, worker
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.job import prepare_job
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run, load_runs
from l2pd_bench.replay import leads_to
from l2pd_bench.trace import TraceStep, read_traces

PROGRAM = str(Path(sys.executable).with_name("l2pd-bench"))
SMALL: dict[str, Any] = {
    "model": "analytic",
    "task": ["analytic-shuffle"],
    "strategy": ["fixed-step", "threshold:tau=0.4", "oracle"],
    "temperature": 1.0,
    "gen_length": [16],
    "block_length": 8,
    "batch_size": [3],  # so six samples are a turn
    "limit": 8,
}
RANDOM = (
    "import torch\n"
    "from dataclasses import dataclass\n"
    "from typing import ClassVar\n"
    "from l2pd_bench.strategies.base import Decision, StepView, Strategy\n"
    "@dataclass(frozen=True)\n"
    "class Mine(Strategy):\n"
    "    name: ClassVar[str] = 'mine'\n"
    "    def select(self, view: StepView) -> Decision:\n"
    "        return Decision(view.candidates, tokens=torch.randint(2, 20, view.tokens.shape))\n"
)


def execute(output: Path, **options: Any) -> runner.Outcome:
    """Run a small plan in this process."""
    return runner.execute(make_plan(None, {**SMALL, "output": output, **options}), command="l2pd-bench run ...")


def records(root: Path) -> dict[str, bytes]:
    """What is recorded, but for traces."""
    return {str(path): path.read_bytes() for path in root.rglob("*.json*") if path.name != "trace.jsonl"}


def untimed(run: Run) -> list[dict[str, Any]]:
    """A run's samples without what differs from one time to the next."""
    lines = (run.folder / "samples.jsonl").read_text().splitlines()
    varying = ("seconds", "segment", "elapsed_s", "seal")
    return [{k: v for k, v in json.loads(line).items() if k not in varying} for line in lines]


def traced(root: Path) -> dict[str, list[str]]:
    """The doc_ids that are traced, by strategy, after a check that each trace leads to its record."""
    found = {}
    for run in load_runs(root):
        traces, samples = read_traces(run.folder), {s.doc_id: s for s in run.samples}
        assert all(leads_to(trace, samples[doc_id]) for doc_id, trace in traces.items())
        found[run.manifest.strategy.spec] = list(traces)
    return found


def no_decode(*args: Any) -> Any:
    """Nothing is to be decoded."""
    raise AssertionError("decoded a timed batch")


class TestTrace:
    def test_records_are_the_same(self, tmp_path: Path) -> None:
        """A traced run has the identity, tokens, counts and files of one that is not, and its traces lead to them."""
        execute(tmp_path / "a")
        execute(tmp_path / "b", trace=True)

        without, with_traces = load_runs(tmp_path / "a"), load_runs(tmp_path / "b")
        for a, b in zip(without, with_traces, strict=True):
            assert (a.manifest.run_id, a.manifest.protocol) == (b.manifest.run_id, b.manifest.protocol)
            assert untimed(a) == untimed(b)
            assert not (a.folder / "trace.jsonl").exists()
        ids = [sample.doc_id for sample in without[0].samples]
        assert traced(tmp_path / "b") == dict.fromkeys(SMALL["strategy"], ids)

    def test_what_is_timed_is_not_observed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every timed decode is without an observer, and each batch is decoded once more for its traces."""
        timed: list[int] = []
        followed: list[list[str]] = []
        decode, trace_batch = worker.decode, follow.trace_batch

        def clocked(host: Any, strategy: Any, prompts: Any, *rest: Any, **named: Any) -> Any:
            timed.append(len(prompts))
            return decode(host, strategy, prompts, *rest, **named)

        def watched(host: Any, strategy: Any, settings: Any, batch: Any, *rest: Any) -> Any:
            followed.append([item.doc_id for item in batch.items])
            return trace_batch(host, strategy, settings, batch, *rest)

        monkeypatch.setattr(worker, "decode", clocked)
        monkeypatch.setattr(follow, "trace_batch", watched)
        execute(tmp_path, strategy=["fixed-step"], trace=True)

        ids = [sample.doc_id for sample in load_runs(tmp_path)[0].samples]
        assert followed == [ids[:6], ids[6:]]
        assert timed[-3:] == [1, 6, 2]  # behind the warm-up: the last sample alone, and the two turns

    def test_later(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is recorded is traced by the same command with --trace, in its batches; no record is touched."""
        execute(tmp_path)
        before = records(tmp_path)
        batches: list[int] = []
        trace_batch = follow.trace_batch

        def watched(host: Any, strategy: Any, settings: Any, batch: Any, *rest: Any) -> Any:
            batches.append(len(batch.items))
            return trace_batch(host, strategy, settings, batch, *rest)

        monkeypatch.setattr(worker, "decode", no_decode)
        monkeypatch.setattr(follow, "trace_batch", watched)
        outcome = execute(tmp_path, trace=True)

        assert (outcome.exit_code, outcome.message) == (0, "")
        assert records(tmp_path) == before
        assert {len(ids) for ids in traced(tmp_path).values()} == {8}
        assert batches == [6, 2] * 3
        batches.clear()
        execute(tmp_path, trace=True)
        assert batches == []

    @pytest.mark.parametrize("left", [0, -30])
    def test_torn(self, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trace file that is lost or torn is made whole again, without decoding anything else."""
        execute(tmp_path, trace=True)
        (path,) = tmp_path.rglob("threshold*/trace.jsonl")
        whole = path.read_bytes()
        path.write_bytes(whole[:left])
        monkeypatch.setattr(worker, "decode", no_decode)
        execute(tmp_path, trace=True)

        assert sorted(set(path.read_bytes().splitlines())) == sorted(whole.splitlines())
        assert {len(ids) for ids in traced(tmp_path).values()} == {8}

    def test_interrupted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C while a batch is traced keeps its samples; the same command traces them, and decodes the rest."""
        trace_batch = follow.trace_batch

        def interrupt(host: Any, strategy: Any, settings: Any, batch: Any, *rest: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(follow, "trace_batch", interrupt)
        outcome = execute(tmp_path, strategy=["fixed-step"], trace=True)
        assert outcome.exit_code == 130
        (run,) = load_runs(tmp_path)
        assert (len(run.samples), run.manifest.status) == (6, "interrupted")
        monkeypatch.setattr(follow, "trace_batch", trace_batch)
        outcome = execute(tmp_path, strategy=["fixed-step"], trace=True)

        assert outcome.exit_code == 0
        assert {len(ids) for ids in traced(tmp_path).values()} == {8}
        assert load_runs(tmp_path)[0].manifest.status == "finished"

    def test_other_tokens_fail_the_row(self, tmp_path: Path) -> None:
        """A strategy that answers otherwise the second time fails its row, named, with its samples kept; no other."""
        (tmp_path / "mine.py").write_text(RANDOM)
        spec = f"{tmp_path}/mine.py:Mine"
        outcome = execute(tmp_path / "out", strategy=[spec, "fixed-step"], trace=True)

        assert outcome.exit_code == 1
        assert "strategy 'mine': got other tokens for analytic-shuffle/" in outcome.message
        runs = {run.manifest.strategy.spec: run for run in load_runs(tmp_path / "out")}
        assert runs["fixed-step"].manifest.status == "finished"
        assert (runs[spec].manifest.status, len(runs[spec].samples)) == ("failed", 6)
        assert "got other tokens" in str(runs[spec].manifest.error)
        assert not (runs[spec].folder / "trace.jsonl").exists()

    def test_an_older_record_is_not_failed(self, tmp_path: Path) -> None:
        """A finished record that cannot be traced afterwards is told about, and stays as it is."""
        (tmp_path / "mine.py").write_text(RANDOM)
        spec = f"{tmp_path}/mine.py:Mine"
        execute(tmp_path / "out", strategy=[spec])
        before = records(tmp_path / "out")
        outcome = execute(tmp_path / "out", strategy=[spec], trace=True)

        assert outcome.exit_code == 1
        assert outcome.message.startswith("not traced: ") and "got other tokens" in outcome.message
        assert records(tmp_path / "out") == before

    def test_timeout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A traced decode that hangs fails its row, with its samples kept; of an older record it is only told."""

        def hang(*rest: Any) -> Any:
            while True:
                pass

        monkeypatch.setattr(follow, "trace_batch", hang)
        options: dict[str, Any] = {"strategy": ["fixed-step"], "trace": True, "timeout": 1.0}
        outcome = execute(tmp_path / "at once", **options)
        assert outcome.exit_code == 1
        assert "a decode took longer than --timeout allows (test_run_trace.py, line " in outcome.message
        (run,) = load_runs(tmp_path / "at once")
        assert (run.manifest.status, len(run.samples)) == ("failed", 6)

        execute(tmp_path / "later", strategy=["fixed-step"])
        before = records(tmp_path / "later")
        outcome = execute(tmp_path / "later", **options)
        assert outcome.exit_code == 1
        assert outcome.message.startswith("not traced: ") and "--timeout" in outcome.message
        assert records(tmp_path / "later") == before


class TestWatch:
    WORDS = ("run", "--model", "analytic", "--task", "analytic-copy", "--strategy", "threshold", "--limit", "2")

    def on_terminal(self, words: Sequence[str]) -> tuple[int, str]:
        """The exit code of the program, and what it shows on a terminal."""
        ours, theirs = pty.openpty()
        shape = {**os.environ, "COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
        process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=theirs, env=shape)
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not data:
                break
            shown += data
        os.close(ours)
        return process.wait(), shown.decode()

    def test_terminal(self, tmp_path: Path) -> None:
        """On a terminal every sample is shown until it is filled, and nothing but the records is written."""
        code, shown = self.on_terminal([*self.WORDS, "--watch", "--output", str(tmp_path)])

        assert code in (0, 1)  # 1: so few samples are no claim
        for doc_id in [sample.doc_id for sample in load_runs(tmp_path)[0].samples]:
            assert f"threshold  {doc_id}" in shown
        assert "forward 1: " in shown and " 0 masks left" in shown
        assert not list(tmp_path.rglob("trace.jsonl"))

    def test_first_of_a_batch(self, analytic: AnalyticHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a batch the first sample is shown, at a pace for reading, and the bar is back afterwards."""
        pauses: list[float] = []
        monkeypatch.setattr(watch, "sleep", pauses.append)
        console = Console(file=io.StringIO(), width=60, force_terminal=True)
        step = TraceStep(block=(0, 2), columns=[0], tokens=[20], confidences=[1.0], remasked=[], end=2)
        with Progress(console=console) as progress:
            with watch.Watch(console, progress).showing("title", 2, analytic) as on_step:
                assert not progress.live.is_started
                for row in (1, 0, 2):
                    on_step(row, step)
            assert progress.live.is_started

        assert pauses == [watch.STEP_S]
        assert isinstance(console.file, io.StringIO)
        assert "forward 1: 1 filled; 1 masks left" in console.file.getvalue()
        assert "forward 2" not in console.file.getvalue()

    def test_no_timeout(self, tmp_path: Path, analytic: AnalyticHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """A decode that is watched waits at every step, which no timeout counts against the strategy."""
        console = Console(file=io.StringIO(), width=60)
        seen: list[Any] = []
        monkeypatch.setattr(follow, "at_most", lambda *asked: seen.append(asked[:2]) or asked[2]())
        plan = make_plan(None, {**SMALL, "strategy": ["fixed-step"], "limit": 1, "output": tmp_path, "timeout": 60.0})
        job = prepare_job(plan)
        with Progress(console=console) as progress:
            shown = watch.Watch(console, progress, step_s=0.0)
            runner.run_job(plan, job, command="")
            monkeypatch.setattr(runner, "Watch", lambda *_: shown)
            runner.run_job(replace(plan, output=tmp_path / "b", watch=True), job, command="")
            assert seen == []
            runner.run_job(replace(plan, output=tmp_path / "c", trace=True), job, command="")
        assert seen == [(60.0, "fixed-step on analytic-shuffle, analytic-shuffle/000, traced")]

    def test_nothing_left(self, tmp_path: Path) -> None:
        """Where all is recorded it says that there is nothing to watch."""
        subprocess.run([PROGRAM, *self.WORDS, "--output", str(tmp_path)], check=False, capture_output=True)
        _, shown = self.on_terminal([*self.WORDS, "--watch", "--output", str(tmp_path)])

        assert "nothing is left to decode" in shown

    def test_no_terminal(self, tmp_path: Path) -> None:
        """Without a terminal it is refused before anything is decoded or written."""
        words = [PROGRAM, *self.WORDS, "--watch", "--output", str(tmp_path / "out")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)

        assert done.returncode == 2
        assert done.stderr.startswith("error: watch: ") and "--trace" in done.stderr and done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
