"""Strategies that hang, raise or choose rubbish: their own row ends, the others do not. And what ends all of them."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import l2pd_bench
from l2pd_bench import runner, stopping
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run, load_runs
from l2pd_bench.stopping import Overtime, at_most, stoppable

HEAD = """
import time
from dataclasses import dataclass
from typing import ClassVar
import torch
from l2pd_bench.strategies.base import Decision, StepView, Strategy

@dataclass(frozen=True)
class Mine(Strategy):
    name: ClassVar[str] = "mine"

    def select(self, view: StepView) -> Decision:
"""
LOOP = "        while True: pass"
SWALLOW = """        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass"""


def execute(folder: Path, body: str, **options: Any) -> tuple[runner.Outcome, dict[str, Run]]:
    """Run fixed-step and a strategy with this `select`; the runs by name."""
    (folder / "mine.py").write_text(HEAD + body)
    asked = {"model": "analytic", "task": ["analytic-copy"], "strategy": ["fixed-step:k=2", f"{folder}/mine.py:Mine"]}
    setting = {"gen_length": [8], "block_length": 8, "limit": 3, "output": folder / "out"}
    outcome = runner.execute(make_plan(None, {**asked, **setting, **options}), command="REPEAT")
    return outcome, {run.manifest.strategy.name.rpartition(":")[2]: run for run in load_runs(folder / "out")}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("        raise ZeroDivisionError('oops')", "ZeroDivisionError: oops (mine.py, line 13)"),
        ("        return None", "must return a Decision, got NoneType"),
        ("        return Decision(view.confidence * float('nan'))", "torch.float32"),
        ("        return Decision(view.candidates[:, :3])", "torch.bool of shape (1, 8), got torch.bool (1, 3)"),
        ("        return Decision(view.candidates, view.tokens + 10**6)", "filled in ids from"),
    ],
    ids=["raises", "none", "nan", "shape", "tokens"],
)
def test_rubbish(tmp_path: Path, body: str, words: str) -> None:
    """What a strategy may not do ends its row with its words; a repeat tries it again; the other row is finished."""
    for _ in range(2):
        outcome, runs = execute(tmp_path, body)
        assert outcome.exit_code == 1 and words in outcome.message
        assert (runs["fixed-step"].manifest.status, len(runs["fixed-step"].samples)) == ("finished", 3)
        assert (runs["Mine"].manifest.status, len(runs["Mine"].samples)) == ("failed", 0)
        assert words in str(runs["Mine"].manifest.error)


class TestTimeout:
    @pytest.mark.parametrize("body", [LOOP, SWALLOW], ids=["loop", "swallow"])
    def test_hang(self, tmp_path: Path, body: str) -> None:
        """A strategy that never comes back, also one that catches every Exception, fails when its time is up."""
        outcome, runs = execute(tmp_path, body, timeout=1.0)

        assert outcome.exit_code == 1
        assert "a decode took longer than --timeout allows (mine.py, line " in outcome.message
        assert (runs["fixed-step"].manifest.status, len(runs["fixed-step"].samples)) == ("finished", 3)
        assert runs["Mine"].manifest.status == "failed"

    def test_in_time(self, tmp_path: Path) -> None:
        """What is done in time is not concerned, and no timer is left behind."""
        before = signal.getsignal(signal.SIGALRM)
        outcome, runs = execute(tmp_path, "        return Decision(view.candidates)", timeout=60.0)

        assert outcome.exit_code == 0 and {len(run.samples) for run in runs.values()} == {3}
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and signal.getsignal(signal.SIGALRM) is before
        assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]

    def test_hardly_any_time(self) -> None:
        """Also where the time is up before the call is made, nothing is left that would ring later."""
        before = signal.getsignal(signal.SIGALRM)
        for _ in range(30):
            with pytest.raises(Overtime):
                at_most(1e-6, "mine on task", lambda: time.sleep(5))
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and signal.getsignal(signal.SIGALRM) is before

    def test_what_cannot_be_interrupted(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A call that is not Python is waited for, but it is said which line made it, and what to do."""
        monkeypatch.setattr(stopping, "GRACE_S", 0.2)
        began = time.monotonic()
        with pytest.raises(Overtime):
            at_most(0.1, "mine on task", lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000))
        assert time.monotonic() - began > 0.3
        said = capsys.readouterr().err
        assert said.startswith("mine on task: for 0.3 s without an end") and "test_faults_plugins.py, line " in said
        assert "kill -9" in said

    def test_values(self, tmp_path: Path) -> None:
        """No time at all, or a thread that no signal reaches, is refused before anything is decoded."""
        with pytest.raises(UsageError, match=r"timeout: got 0, expected seconds, above 0"):
            make_plan(None, {"strategy": ["fixed-step"], "task": ["mini-math"], "timeout": 0.0})
        raised: list[BaseException] = []

        def run() -> None:
            try:
                execute(tmp_path, LOOP, timeout=1.0)
            except BenchError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert "outside of the main thread" in str(raised[0]) and not (tmp_path / "out").exists()


class TestSignals:
    def test_handlers_come_back(self) -> None:
        """Handlers are as before, whether the end was asked for or not, and however the block is left."""
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        said: list[str] = []
        asked_twice = False
        with stoppable(lambda: "something", said.append) as stop:
            assert not stop.requested
        with pytest.raises(KeyboardInterrupt), stoppable(lambda: "something", said.append) as stop:  # noqa: PT012
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            asked_twice = stop.requested  # SIGTERM interrupts nothing, however often it comes
            signal.raise_signal(signal.SIGINT)

        assert asked_twice and said == ["something"]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_nobody_listens(self) -> None:
        """Where what is said cannot be said, the run ends all the same."""

        def say(text: str) -> None:
            raise SystemExit(text)

        began = time.monotonic()
        with stoppable(lambda: "something", say):
            signal.raise_signal(signal.SIGTERM)

        assert time.monotonic() - began < 4

    def test_ignored_stays_ignored(self) -> None:
        """A shell's background job, whose Ctrl-C is another's, goes on."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with stoppable(lambda: "", lambda _: None) as stop:
                signal.raise_signal(signal.SIGINT)
                assert not stop.requested
        finally:
            signal.signal(signal.SIGINT, before)

    def test_in_a_thread(self, tmp_path: Path) -> None:
        """From a notebook's thread a run is as from anywhere."""
        rows: list[Any] = []

        def run() -> None:
            options = {"strategy": "fixed-step:k=2", "task": "analytic-copy", "model": "analytic", "gen_length": 4}
            rows.append(l2pd_bench.run(**options, block_length=4, limit=1, output=tmp_path))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert list(rows[0]["samples"]) == [1]
