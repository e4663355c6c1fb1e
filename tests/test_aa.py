"""A strategy against itself, and against itself slowed down: what is there is found, what is not is not.

The clock is made up, so that the outcome is the same everywhere: its ticks are noisy, and
the machine it stands for grows slower and faster. `L2PD_BENCH_FULL=1` asks the real one, too.
"""

from __future__ import annotations

import math
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from record_factory import load_run

from l2pd_bench import cli, measure
from l2pd_bench.aa import self_test
from l2pd_bench.errors import UsageError
from l2pd_bench.plan import make_plan
from l2pd_bench.report.comparison import compare
from l2pd_bench.runner import execute

SLOWED = """
import time
from dataclasses import dataclass
from typing import ClassVar
from l2pd_bench.strategies.fixed_step import FixedStep

@dataclass(frozen=True)
class Slowed(FixedStep):
    name: ClassVar[str] = "slowed"
    sleep_s: float = 0.0

    def select(self, view):
        if self.sleep_s:
            time.sleep(self.sleep_s)
        return super().select(view)
"""
TICK_S, TICKS_PER_STEP = 0.001, 4  # around the forward and around select
MEAN_TICK_S = TICK_S * math.exp(0.5**2 / 2) * 1.04  # of the lognormal noise, a hundredth of it five times as long


class Clock:
    """A noisy clock of a machine whose speed swings by a quarter; sleeping moves it on."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0

    def __call__(self) -> float:
        """The time, a tick later."""
        noise = self.random.lognormvariate(0, 0.5) * (5 if self.random.random() < 0.01 else 1)
        self.now += TICK_S * noise * (1 + 0.25 * math.sin(self.now / 3))
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the harness a clock of this seed."""

    def put(seed: int) -> None:
        clock = Clock(seed)
        monkeypatch.setattr(measure, "perf_counter", clock)
        monkeypatch.setattr(time, "sleep", clock.sleep)

    return put


def plan(**changes: Any) -> Any:
    """A small one of one strategy."""
    small = {"task": ["analytic-copy"], "model": "analytic", "limit": 40, "gen_length": [8], "block_length": 8}
    return make_plan(None, {"strategy": ["fixed-step"], **small, **changes})


class TestItself:
    def test_covers_one(self, set_clock: Any) -> None:
        """Over 20 seeds the interval holds 1 in at least 17."""
        hits = 0
        for seed in range(20):
            set_clock(seed)
            hits += self_test(plan(seed=seed, limit=24, gen_length=[4], block_length=4)).ok
        assert hits >= 17

    def test_a_bias_is_found(self, set_clock: Any) -> None:
        """Were one copy always slower by a fifth, the test would say so."""
        set_clock(0)
        fair = self_test(plan())
        biased = replace(fair, pairs=[(first, 1.2 * second) for first, second in fair.pairs])

        assert fair.ok and "which holds 1" in fair.message
        assert not biased.ok and "does not hold 1" in biased.message

    def test_turns(self, set_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The copy that is decoded first changes with every batch."""
        times = iter(range(1, 1000))

        class Timed:
            def __init__(self) -> None:
                self.decode_s, self.samples = float(next(times)), [None]

        monkeypatch.setattr("l2pd_bench.aa.decode", lambda *_: Timed())
        pairs = self_test(plan(limit=10)).pairs

        assert [first < second for first, second in pairs] == [True, False] * 5

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"strategy": ["fixed-step", "threshold"]}, "got 2 rows to run"),
            ({"cache": ["none", "dual"]}, "got 2 rows to run"),
            ({"limit": 9}, "got 9 batches, expected at least 10"),
            ({"batch_size": [8]}, "got 5 batches"),
        ],
    )
    def test_refused(self, changes: dict[str, Any], said: str) -> None:
        """More than one row, or too few batches, are no self-test."""
        with pytest.raises(UsageError, match=said):
            self_test(plan(**changes))

    def test_command(
        self, set_clock: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """`run --aa` says the interval, records nothing, and its exit code tells whether 1 is in it."""
        set_clock(3)
        monkeypatch.chdir(tmp_path)
        words = "run --aa --strategy fixed-step --task analytic-copy --model analytic --limit 20"
        monkeypatch.setattr("sys.argv", ["l2pd-bench", *words.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()

        shown = capsys.readouterr().out
        assert shown.startswith("fixed-step against itself on analytic-copy, 20 batches in turns: speedup ")
        assert ended.value.code == (0 if "which holds 1" in shown else 1)
        assert list(tmp_path.iterdir()) == []


class TestSlowed:
    @pytest.mark.parametrize(("share", "word"), [(0.0, "undecided"), (0.1, "slower"), (0.5, "slower")])
    def test_found(self, tmp_path: Path, set_clock: Any, share: float, word: str) -> None:
        """A rule that sleeps a tenth of a step's time is found slower; one that sleeps not at all is not."""
        (tmp_path / "slowed.py").write_text(SLOWED)
        spec = f"{tmp_path}/slowed.py:Slowed:sleep_s={share * MEAN_TICK_S * TICKS_PER_STEP}"
        set_clock(1)
        outcome = execute(plan(strategy=["fixed-step", spec], limit=100, output=tmp_path / "out"), command="x")
        base, slowed = (load_run(folder) for folder in outcome.folders)
        found = compare(base, slowed)

        assert found.verdict is not None and found.verdict.speed == word
        assert found.speedup is not None and found.speedup.value == pytest.approx(1 / (1 + share), rel=0.05)
        assert found.agreement_share == 1.0


@pytest.mark.skipif("L2PD_BENCH_FULL" not in os.environ, reason="takes minutes, and the machine to itself")
class TestRealClock:
    CHANGES: ClassVar[dict[str, Any]] = {
        **{"model": "mini", "task": ["mini-code"], "cache": ["dual"], "eot": ["stop"], "gen_length": [128]},
        "block_length": 32,
    }

    def test_covers_one(self) -> None:
        """On this machine's own clock, the embedded model's interval holds 1 for at least 17 of 20 seeds."""
        found = [self_test(plan(**self.CHANGES, strategy=["threshold"], limit=60, seed=seed)) for seed in range(20)]
        print(*(test.message for test in found), sep="\n")  # noqa: T201  # for the closing note
        assert sum(test.ok for test in found) >= 17

    @pytest.mark.parametrize(("share", "word"), [(0.0, "undecided"), (0.1, "slower")])
    def test_slowed(self, tmp_path: Path, share: float, word: str) -> None:
        """A rule that sleeps for a tenth of a forward's time is found slower; one that sleeps not at all is not."""
        (tmp_path / "slowed.py").write_text(SLOWED)
        setting = {**self.CHANGES, "limit": 60}
        (folder,) = execute(plan(**setting, strategy=["fixed-step"], output=tmp_path / "a"), command="x").folders
        samples = load_run(folder).samples
        step_s = sum(s.seconds.decode for s in samples) / sum(s.nfe.total for s in samples)
        spec = f"{tmp_path}/slowed.py:Slowed:sleep_s={share * step_s}"
        wanted = plan(**setting, strategy=["fixed-step", spec], output=tmp_path / "b")
        found = compare(*(load_run(folder) for folder in execute(wanted, command="x").folders))
        print(found.speedup, found.verdict)  # noqa: T201

        assert found.verdict is not None and found.verdict.speed == word
