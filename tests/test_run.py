"""Runs from the outside: records, resuming, faults, and what the board says of them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l2pd_bench import job, runner
from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run, load_runs
from l2pd_bench.tasks.analytic import AnalyticCopy
from l2pd_bench.worker import Assignment, Turn, Worker

PROGRAM = str(Path(sys.executable).with_name("l2pd-bench"))
SMALL: dict[str, Any] = {
    "model": "analytic",
    "task": ["analytic-shuffle", "analytic-copy"],
    "strategy": ["fixed-step", "threshold:tau=0.4"],
    "temperature": 1.0,
    "limit": 6,
}


def execute(output: Path, **options: Any) -> runner.Outcome:
    """Run a small plan in this process."""
    return runner.execute(make_plan(None, {**SMALL, "output": output, **options}), command="l2pd-bench run ...")


def content(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """All samples under a results folder, timings and segments left out."""
    found = {}
    for run in load_runs(root):
        for line in (run.folder / "samples.jsonl").read_text().splitlines():
            sample = json.loads(line)
            key = (str(run.folder.relative_to(root)), sample["doc_id"])
            assert key not in found, "recorded twice"
            found[key] = {k: v for k, v in sample.items() if k not in ("seconds", "segment", "elapsed_s", "seal")}
    return found


def by_spec(root: Path, task: str) -> dict[str, Run]:
    """Runs of a task by strategy."""
    return {r.manifest.strategy.spec: r for r in load_runs(root) if r.manifest.protocol["task"] == task}


def run_to_its_end(command: list[str]) -> None:
    """Run a command that must come to its end; that the machine's speed drifted meanwhile is no matter here."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "rows are INVALID, for the reasons told" in done.stderr, done.stderr


class TestRecords:
    def test_counts_are_true(self, tmp_path: Path) -> None:
        """Tokens, forwards and positions of every record follow from its ids and the definition."""
        execute(tmp_path, task=["mini-list"], model="mini", temperature=0.0, limit=3, strategy=["fixed-step:k=4"])

        (run,) = load_runs(tmp_path)
        assert run.manifest.status == "finished"
        for sample in run.samples:
            eot = sample.output_ids.index(1) if 1 in sample.output_ids else 128
            assert len(sample.output_ids) == 128
            assert (sample.tokens.net, sample.tokens.gross) == (eot, 128)
            assert (sample.nfe.full, sample.nfe.window) == (32, 0)
            assert sample.positions == 32 * (sample.prompt_tokens + 128)
            assert 0 < sample.seconds.model < sample.seconds.decode == sample.seconds.latency

    def test_interleaved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The cells of a task take turns batch by batch, each one first in its turn."""
        order: list[str] = []
        run_batch = Worker.decode

        def watch(worker: Worker, asked: Assignment, *rest: Any) -> Turn:
            order.append(asked.strategy.name)
            return run_batch(worker, asked, *rest)

        monkeypatch.setattr(Worker, "decode", watch)
        execute(tmp_path, task=["analytic-copy"], limit=4)

        a, b = "fixed-step", "threshold"
        assert order == [a, b, b, a, a, b, b, a]

    def test_not_trained_for(self, tmp_path: Path) -> None:
        """A model on a task it was not trained for is noted in the record."""
        execute(tmp_path, model="mini", task=["analytic-copy"], strategy=["threshold"], limit=1)

        (run,) = load_runs(tmp_path)
        assert "not trained for analytic-copy" in run.manifest.notes[0]

    def test_matrix(self, tmp_path: Path) -> None:
        """Repeatable options span the matrix: one folder for each cell."""
        execute(tmp_path, cache=["none", "dual"], eot=["decode", "stop"], batch_size=[1, 4], limit=4)

        runs = load_runs(tmp_path)
        assert len(runs) == 2 * 2 * 2 * 2 * 2
        assert {len(r.samples) for r in runs} == {4}

    def test_batch_does_not_matter(self, tmp_path: Path) -> None:
        """Sampled answers are the same at batch 1 and 4, as seeds belong to samples."""
        execute(tmp_path, batch_size=[1, 4], limit=4)

        for task in ("analytic-shuffle", "analytic-copy"):
            texts: dict[str, list[list[str]]] = {}
            for run in load_runs(tmp_path / task):
                texts.setdefault(run.manifest.strategy.spec, []).append([s.text for s in run.samples])
            assert all(one == four for one, four in texts.values())


class TestResume:
    def test_repeating_does_nothing(self, tmp_path: Path) -> None:
        """A finished run is left untouched when its command is repeated."""
        execute(tmp_path)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*.json*")}
        execute(tmp_path)

        assert {p: p.read_bytes() for p in tmp_path.rglob("*.json*")} == before

    def test_larger_limit_continues(self, tmp_path: Path) -> None:
        """More samples are added to those recorded, and equal an undisturbed run's."""
        execute(tmp_path / "a", limit=2)
        execute(tmp_path / "a", limit=6)
        execute(tmp_path / "b", limit=6)

        assert content(tmp_path / "a") == content(tmp_path / "b")

    def test_torn_line(self, tmp_path: Path) -> None:
        """A torn last line is dropped, and its sample decoded again."""
        execute(tmp_path)
        before = content(tmp_path)
        for path in tmp_path.rglob("samples.jsonl"):
            path.write_bytes(path.read_bytes()[:-40])
        execute(tmp_path)

        assert content(tmp_path) == before

    def test_unknown_schema(self, tmp_path: Path) -> None:
        """Records of an unknown schema version are refused and left as they are."""
        execute(tmp_path)
        path = next(tmp_path.rglob("samples.jsonl"))
        path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 7'))
        before = path.read_bytes()
        with pytest.raises(RecordError, match=r"schema_version.*7.*expected 4"):
            execute(tmp_path, limit=7)

        assert path.read_bytes() == before

    @pytest.mark.parametrize("seed", range(2))
    def test_kill_nine(self, tmp_path: Path, seed: int) -> None:
        """Killed ten times at random moments, a run ends with the records of an undisturbed one."""
        words = ["--model", "analytic", "--task", "analytic-shuffle", "--task", "analytic-copy", "--temperature", "1"]
        words += ["--strategy", "fixed-step", "--strategy", "threshold:tau=0.4", "--limit", "40"]
        command = [PROGRAM, "run", *words]
        run_to_its_end([*command, "--output", str(tmp_path / "b")])
        rng = random.Random(seed)
        killed = 0

        def recorded() -> int:
            return sum(path.read_bytes().count(b"\n") for path in (tmp_path / "a").rglob("samples.jsonl"))

        for _ in range(10):
            wanted = recorded() + rng.randint(0, 12)  # of 160 in all
            process = subprocess.Popen(
                [*command, "--output", str(tmp_path / "a")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while recorded() < wanted and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        run_to_its_end([*command, "--output", str(tmp_path / "a")])

        assert killed >= 3
        assert content(tmp_path / "a") == content(tmp_path / "b")
        assert {r.manifest.status for r in load_runs(tmp_path / "a")} == {"finished"}

    def test_two_processes(self, tmp_path: Path) -> None:
        """The second process on a run is refused with the first's pid; the first is not disturbed."""
        command = [PROGRAM, "run", "--strategy", "fixed-step", "--task", "analytic-shuffle", "--model", "analytic"]
        command += ["--output", str(tmp_path)]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(tmp_path.rglob("samples.jsonl")):
            time.sleep(0.05)
            assert first.poll() is None
        second = subprocess.run(command, capture_output=True, text=True, check=False)

        assert second.returncode == 1
        assert f"process {first.pid} on " in second.stderr and "Traceback" not in second.stderr
        assert first.wait() in (0, 1)  # 1: done, but the machine's speed drifted
        assert len(load_runs(tmp_path)[0].samples) == 200

    def test_interrupt(self, tmp_path: Path) -> None:
        """Ctrl-C keeps what is done, says how to continue, and the same command continues."""
        command = [PROGRAM, "run", "--strategy", "fixed-step", "--task", "analytic-shuffle", "--model", "analytic"]
        command += ["--output", str(tmp_path)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
        while not any(p.read_bytes().count(b"\n") > 1 for p in tmp_path.rglob("samples.jsonl")):
            time.sleep(0.01)  # with the second sample there, the first is sure to be acknowledged
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate()
        (run,) = load_runs(tmp_path)

        assert process.returncode == 130
        assert "interrupted; to continue: l2pd-bench run" in shown and "Traceback" not in shown
        assert run.manifest.status == "interrupted" and 0 < len(run.samples) < 200
        run_to_its_end(command)
        assert len(load_runs(tmp_path)[0].samples) == 200


class TestFaults:
    def test_one_strategy_spelled_twice(self, tmp_path: Path) -> None:
        """Two spellings of one strategy are refused before anything is written, naming both."""
        with pytest.raises(UsageError, match=r"'threshold' and 'threshold:tau=0.9' are both 'threshold'"):
            execute(tmp_path / "out", strategy=["threshold", "threshold:tau=0.9"])

        assert not (tmp_path / "out").exists()

    def test_equal_ids_in_two_tasks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Items of different tasks keep their own prompts, even under the same doc_id."""
        load_task = job.load_task

        def renamed(name: str, **how: Any) -> Any:
            task = load_task(name, **how)
            items = [replace(item, doc_id=item.doc_id.rpartition("/")[2]) for item in task.items()]
            monkeypatch.setattr(task, "items", lambda: items)
            return task

        monkeypatch.setattr(job, "load_task", renamed)
        execute(tmp_path, task=["analytic-copy", "analytic-replace"], strategy=["fixed-step"], limit=5)

        for run in load_runs(tmp_path):
            assert [s.correct for s in run.samples] == [True] * 5

    def test_grader_that_raises(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A grader that raises fails the rows of its task; another task's finish."""

        def grade(self: Any, item: Any, text: str) -> Any:
            raise KeyError("no such field")

        monkeypatch.setattr(AnalyticCopy, "grade", grade)
        outcome = execute(tmp_path, strategy=["fixed-step"])

        assert outcome.exit_code == 1 and "no such field" in outcome.message
        states = {r.manifest.protocol["task"]: r.manifest.status for r in load_runs(tmp_path)}
        assert states == {"analytic-copy": "failed", "analytic-shuffle": "finished"}

    def test_batches_are_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every turn but a cell's last is two batches of the cell's size, and cells advance together whatever it is."""
        sizes: list[tuple[int, int]] = []
        run_batch = Worker.decode

        def watch(worker: Worker, asked: Assignment, batch: Any, *rest: Any) -> Turn:
            sizes.append((asked.batch_size, len(batch)))
            return run_batch(worker, asked, batch, *rest)

        monkeypatch.setattr(Worker, "decode", watch)
        execute(tmp_path, task=["analytic-copy"], strategy=["threshold"], batch_size=[3, 4], limit=24)

        assert sorted(sizes) == [(3, 6)] * 4 + [(4, 8)] * 3
        assert [size for size, _ in sizes] == [3, 4, 3, 4, 3, 4, 3]

    PLUGIN = (
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from l2pd_bench.strategies.base import Decision, StepView, Strategy\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Strategy):\n"
        "    name: ClassVar[str] = 'mine'\n"
        "    def select(self, view: StepView) -> Decision:\n"
        "        {body}\n"
    )

    def test_strategy_that_raises(self, tmp_path: Path) -> None:
        """A strategy that raises fails its own row, with its words and place; the others finish."""
        (tmp_path / "mine.py").write_text(self.PLUGIN.format(body="raise KeyError('oops')"))
        spec = f"{tmp_path}/mine.py:Mine"
        outcome = execute(tmp_path / "out", task=["analytic-copy"], strategy=["fixed-step", spec])

        assert outcome.exit_code == 1
        assert "KeyError: 'oops' (mine.py, line 8)" in outcome.message
        runs = {r.manifest.strategy.name: r for r in load_runs(tmp_path / "out")}
        assert runs["fixed-step"].manifest.status == "finished"
        failed = next(r for name, r in runs.items() if name != "fixed-step")
        assert failed.manifest.status == "failed" and "oops" in str(failed.manifest.error)

    def test_strategy_that_exits(self, tmp_path: Path) -> None:
        """A strategy that ends the program fails its own row, and the program goes on."""
        (tmp_path / "mine.py").write_text(self.PLUGIN.format(body="raise SystemExit('bye')"))
        spec = f"{tmp_path}/mine.py:Mine"
        outcome = execute(tmp_path / "out", task=["analytic-copy"], strategy=[spec, "fixed-step"], limit=2)

        assert outcome.exit_code == 1 and "SystemExit: bye (mine.py, line 8)" in outcome.message
        assert sorted(r.manifest.status for r in load_runs(tmp_path / "out")) == ["failed", "finished"]

    def test_changed_code_is_another_run(self, tmp_path: Path) -> None:
        """Records of a strategy whose code has changed are not continued; --restart sets them aside."""
        spec = f"{tmp_path}/mine.py:Mine"
        (tmp_path / "mine.py").write_text(self.PLUGIN.format(body="return Decision(view.candidates)"))
        execute(tmp_path / "out", strategy=[spec])
        (tmp_path / "mine.py").write_text(self.PLUGIN.format(body="return Decision(view.confidence > 0.1)"))
        with pytest.raises(RecordError, match="--restart"):
            execute(tmp_path / "out", strategy=[spec])
        plan = make_plan(None, {**SMALL, "output": tmp_path / "out", "strategy": [spec]})
        runner.execute(plan, command="x", restart=True)

        assert len(load_runs(tmp_path / "out")) == 2
        assert len(list((tmp_path / "out").rglob("*.old-*/run.json"))) == 2
