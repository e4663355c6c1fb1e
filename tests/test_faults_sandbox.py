"""Somebody else kills the processes that grade: no answer is wrong for that."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from record_factory import content

from l2pd_bench import runner, sandbox, score
from l2pd_bench.errors import BenchError
from l2pd_bench.plan import make_plan
from l2pd_bench.records import load_runs
from l2pd_bench.sandbox import Limits, Sandbox
from l2pd_bench.sandbox_process import Process
from l2pd_bench.score import ScoreOptions

LEVELS = [level for level in ("bwrap", "landlock") if not sandbox.probe()[level]]
ADD = "def add(a, b):\n    return a + b"
RIGHT, WRONG = "assert add(2, 3) == 5", "assert add(2, 3) == 6"


@pytest.fixture(params=LEVELS or [pytest.param("none", marks=pytest.mark.skip(reason="no sandbox works here"))])
def box(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox of each level that works here."""
    return Sandbox(request.param)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Has the first so many processes killed once their program is sent; the list fills with their ids."""

    def kill_first(count: int) -> list[int]:
        victims: list[int] = []
        send = Process.send

        def sent(process: Process, message: bytes) -> None:
            send(process, message)
            if message == ADD.encode() and len(victims) < count:
                victims.append(process.popen.pid)
                os.kill(process.popen.pid, signal.SIGKILL)

        monkeypatch.setattr(Process, "send", sent)
        return victims

    return kill_first


@pytest.mark.parametrize("tests", [RIGHT, WRONG], ids=["right", "wrong"])
def test_tried_again(box: Sandbox, killed: Callable[[int], list[int]], tests: str) -> None:
    """A program whose process was killed once or twice gets the verdict that it deserves."""
    victims = killed(2)
    outcome = box.run(ADD, tests)

    assert len(set(victims)) == 2
    assert outcome.passed == (tests == RIGHT)
    assert outcome.reason == ("passed" if tests == RIGHT else f"AssertionError (tests, line 1: {WRONG})")


def test_killed_always(box: Sandbox, killed: Callable[[int], list[int]]) -> None:
    """Where every process is killed, nothing is graded: that is said."""
    victims = killed(99)
    with pytest.raises(BenchError, match=r"3 processes for one program were killed from outside"):
        box.run(ADD, RIGHT)

    assert len(victims) == sandbox.ATTEMPTS


def test_what_a_program_does_itself(box: Sandbox) -> None:
    """A program that ignores the end of its time, or leaves with the number of a SIGKILL, is the one that is wrong."""
    ignores = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert box.run(ignores, limits=Limits(cpu_s=1)).reason == "timed out after 1 s of processor time"

    began = time.monotonic()
    leaves = box.run("import os\nos._exit(137)")
    assert not leaves.passed and leaves.reason in ("the process died: SIGKILL", "ended without a verdict: exit 137")
    assert time.monotonic() - began < 30


def execute(output: Path, **options: Any) -> runner.Outcome:
    """Decode two answers of code with the embedded model."""
    asked = {"strategy": ["threshold:tau=0.5"], "task": ["mini-code"], "cache": ["dual"], "eot": ["stop"], "limit": 2}
    return runner.execute(make_plan(None, {**asked, "output": output, **options}), command="REPEAT")


def test_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose programs are killed again and again says so and grades none; repeated, it has the right verdicts."""
    execute(tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(sandbox, "started", _killing)
        outcome = execute(tmp_path / "b")
    (failed,) = load_runs(tmp_path / "b")
    assert outcome.exit_code == 1 and "were killed from outside" in outcome.message
    assert (failed.manifest.status, len(failed.samples)) == ("failed", 0)

    assert execute(tmp_path / "b").exit_code == 0
    scores = [[(s.doc_id, s.output_ids, s.score) for s in run.samples] for run in load_runs(tmp_path)]
    assert scores[0] == scores[1] and len(scores[0]) == 2


@contextmanager
def _killing(*arguments: Any, **options: Any) -> Iterator[Process]:
    with sandbox_started(*arguments, **options) as process:
        os.kill(process.popen.pid, signal.SIGKILL)
        yield process


sandbox_started = sandbox.started


def test_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process of the pool that grades again ends the command with words, and no record is changed."""
    options = {
        "model": "analytic",
        "task": ["analytic-copy"],
        "strategy": ["fixed-step:k=2"],
        "limit": score.SERIAL + 1,
    }
    runner.execute(
        make_plan(None, {**options, "gen_length": [4], "block_length": 4, "output": tmp_path}), command="REPEAT"
    )
    before = content(tmp_path)
    monkeypatch.setattr(score, "_grade", _die)
    monkeypatch.setattr(score, "get_context", lambda _: get_context("fork"))  # a fresh one would load all again
    with pytest.raises(BenchError, match=r"a process that graded was killed.*fewer --workers"):
        list(score.score(tmp_path, ScoreOptions(workers=2)))

    assert content(tmp_path) == before


def _die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
