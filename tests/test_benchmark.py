"""`l2pd-bench bench`: figures, what is timed, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from safetensors import safe_open

from l2pd_bench import benchmark, benchmark_engine, benchmark_select, benchmark_startup, cli
from l2pd_bench.benchmark_engine import Run, Turn
from l2pd_bench.benchmark_figure import Figure, as_text
from l2pd_bench.benchmark_forwards import Rates, Recorder, bytes_read, measure_rates, record
from l2pd_bench.benchmark_records import measure_records
from l2pd_bench.benchmark_setup import Setup
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import Decoded
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.mini import WEIGHTS, MiniHost
from l2pd_bench.records import read_run
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy
from l2pd_bench.strategies.fixed_step import FixedStep

SMALL = Setup(gen_length=16, block_length=8, batch_sizes=(1, 2))
HOSTS = Path(benchmark.__file__).resolve().parent / "hosts"


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run `l2pd-bench bench` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["l2pd-bench", "bench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


class TestFigures:
    @pytest.mark.parametrize(
        ("rounds", "targets", "verdict"),
        [
            ([1.0, 9.0, 2.0], {"at_most": 2.0}, "met"),
            ([1.0, 9.0, 2.1], {"at_most": 2.0}, "missed"),
            ([5.0, 1.0, 6.0], {"at_least": 5.0}, "met"),
            ([5.0, 1.0, 4.0], {"at_least": 5.0}, "missed"),
            ([5.0], {}, ""),
        ],
    )
    def test_verdict(self, rounds: list[float], targets: dict[str, float], verdict: str) -> None:
        """The median of the rounds, not their best or their mean, meets a target or misses it."""
        assert Figure("x", rounds, **targets).verdict == verdict

    def test_text(self) -> None:
        """A line has the median, the extremes, the target and what came of it; below stands what made it, and where."""
        shown = as_text([Figure("a ratio", [1.5, 1.25, 1234.5], at_most=1.2), Figure("b", [0.00125])], "a command")
        *figures, command, commit, machine = [line.split() for line in shown.splitlines()]
        assert figures == [
            "a ratio 1.5 [1.25 .. 1234] target <= 1.2 missed".split(),
            "b 0.00125 [0.00125 .. 0.00125]".split(),
            [],
        ]
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HOSTS, capture_output=True, text=True, check=False)
        assert command == ["command:", "a", "command"]
        assert commit[:2] == ["commit:", done.stdout.strip() or "not"]
        assert machine[-4:] == ["torch", f"{torch.__version__},", str(torch.get_num_threads()), "threads"]


class TestForwards:
    @pytest.mark.parametrize("cache", ["none", "dual"])
    @pytest.mark.parametrize("eot", ["decode", "predict"])
    def test_replay_is_exact(
        self, mini: MiniHost, mini_prompts: Callable[[int, int], list[list[int]]], cache: str, eot: str
    ) -> None:
        """A replay makes the calls of the decode, in order, with the ids of that time."""
        inner = Recorder(mini)
        settings = DecodeSettings(gen_length=16, block_length=8, cache=cache, eot=eot)
        outer = record(cast(Host, inner), FixedStep(), mini_prompts(3, 0), settings)
        made = len(inner.calls)

        assert outer.replay() > 0
        first, second = inner.calls[:made], inner.calls[made:]
        assert len(first) == len(second) and inner.opened[0] == inner.opened[1]
        forwards = [call.words[0] for call in first if call.method == "forward"]
        assert eot != "decode" or len(forwards) == 16
        assert len({tuple(ids.flatten().tolist()) for ids in forwards}) == len(forwards)  # a later state in none
        for a, b in zip(first, second, strict=True):
            assert a.method == b.method
            same = [torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a.words, b.words)]  # noqa: B905
            assert all(same) and a.named == b.named

    def test_bytes_read(self, mini: MiniHost) -> None:
        """A forward reads every float32 weight of the file but the embedding."""
        with safe_open(HOSTS / WEIGHTS, "pt") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
        count = sum(torch.Size(shape).numel() for name, shape in shapes.items() if not name.startswith("embed"))
        assert bytes_read(mini) == 4 * count

    def test_rates(self, mini: MiniHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rates are 2 n^3 operations and twice the bytes of the copy, over the seconds of the fastest."""
        seconds = iter([9.0, 0.5, 2.0, 2.0, 2.0, 2.0, *[0.25] * 6])
        monkeypatch.setattr("l2pd_bench.benchmark_forwards._seconds", lambda call, device: next(seconds))
        assert measure_rates(mini) == Rates(2 * 1024**3 / 0.5, 2 * 2**25 / 0.25)

    def test_a_model_without_weights_is_refused(self, analytic: AnalyticHost) -> None:
        """Exact marginals have no floor, and that is said."""
        with pytest.raises(UsageError, match=r"got 'analytic', which has no weights"):
            bytes_read(analytic)


class TestEngine:
    def test_limits(self) -> None:
        """Floors, the step by difference and the batch where it becomes compute-bound, by hand."""

        def run(decode_s: float, forwards: int, flops: int, batch: int) -> Run:
            each = [Decoded([], nfe_window=forwards, flops=flops) for _ in range(batch)]
            return Run(decode_s, 0.0, each, batch)

        # 10 forwards of 1 s each against 6 of them; a row's forward has 100 FLOPs, the device makes 400 per second
        turns = {("dual", b): [Turn(run(10.0, 10, 1000, b), 8.0, run(6.0, 6, 600, b))] for b in (1, 8)}
        figures = benchmark_engine._limits(turns, [Rates(400.0, 50.0)], 25, on_device=True)  # weights: 0.5 s
        found = {f.name: (f.median, f.verdict) for f in figures}
        assert found["decode / floor, cache dual, batch 1"] == (2.0, "")
        assert found["decode / floor, cache dual, batch 8"] == (0.5, "")  # 8000 FLOPs take 20 s
        assert found["in-block step, ms, cache dual, batch 1"] == (1000.0, "")
        assert found["in-block step / reading the weights, cache dual, batch 1"] == (2.0, "missed")
        assert found["in-block step / reading the weights, cache dual, batch 8"] == (2.0, "")
        assert found["in-block step / its FLOPs, cache dual, batch 8"] == (0.5, "")
        assert found["samples per second, cache dual, batch 8"] == (0.8, "")
        assert found["an in-block step is compute-bound from batch, cache dual"] == (2.0, "")
        on_cpu = benchmark_engine._limits(turns, [Rates(400.0, 50.0)], 25, on_device=False)
        assert not [f for f in on_cpu if f.verdict]  # weights may stay in its caches

    def test_small(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """The issue's figures come from one command, here with random prompts and two batch sizes."""
        monkeypatch.setattr(benchmark_engine, "GAIN_AT", 2)
        monkeypatch.setattr(benchmark_engine, "MANY", 2)
        monkeypatch.setattr(benchmark_engine, "ALONE", 1)
        sizes = ["--prompt-length", "8", "--gen-length", "8", "--block-length", "4", "--batch-size", "1"]
        words = ["engine", "--json", "--rounds", "1", *sizes, "--batch-size", "2", "--dtype", "float32"]

        assert call(monkeypatch, *words) == 0
        shown = json.loads(capsys.readouterr().out)
        rows = {row["name"]: row for row in shown["figures"]}
        assert all(len(row["rounds"]) == 1 for row in rows.values())
        targets = {name: row["at_most"] or row["at_least"] for name, row in rows.items()}
        for cache in ("none", "dual"):
            assert targets[f"time per NFE / bare forward, cache {cache}, batch 1"] == 1.05
            assert targets[f"overhead: (decode - model) / decode, cache {cache}, batch 1"] == 0.03
            assert rows[f"decode / floor, cache {cache}, batch 2"]["median"] > 0
        assert targets["batch 2 / batch 1, samples per second, cache dual"] == 5
        assert targets["batch 2 / batch 1, samples per second, cache dual, EoT stop, threshold, 4 samples"] == 5
        assert shown["environment"]["packages"]["torch"] == torch.__version__
        assert shown["command"] == " ".join(["l2pd-bench bench", *words])


@dataclass(frozen=True)
class Sleepy(Strategy):
    name: ClassVar[str] = "sleepy"

    def begin(self, context: Context) -> Select:
        """In 30 ms."""
        time.sleep(0.03)
        return self.select

    def select(self, view: StepView) -> Decision:
        """In 10 ms."""
        time.sleep(0.01)
        return Decision(view.candidates)


class TestOthers:
    def test_select_is_timed(self, mini: MiniHost) -> None:
        """A strategy that sleeps 10 ms per step and 30 ms at first is told to take at least that, and not the sum."""
        seen = benchmark_select._once(mini, Sleepy(), SMALL.prompts(mini, 1), [], SMALL)
        assert 10_000 <= seen.select_us < 25_000 and 30_000 <= seen.begin_us < 60_000
        assert seen.share > 0

    def test_select_of_the_registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Strategies with models of their own, with memory, and the oracle are measured like the others."""
        every = benchmark_select.catalog
        names = {"oracle", "learn2pd", "klass", "apd"}
        monkeypatch.setattr(benchmark_select, "catalog", lambda group: [e for e in every(group) if e.name in names])
        figures = benchmark_select.measure_select(1, Setup(gen_length=32, batch_sizes=(1, 2)))
        for name in names:
            mine = {f.name for f in figures if name in f.name}
            assert {f"select / forward, {name}, batch {b}" for b in (1, 2)} < mine
            assert f"begin, microseconds, {name}" in mine
        assert all(f.median > 0 for f in figures)

    def test_records(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Samples are appended by the writer of every run, in the working directory, and nothing is left there."""
        monkeypatch.chdir(tmp_path)
        kept: list[int] = []

        class Kept:
            def __init__(self, **_: Any) -> None: ...

            def __enter__(self) -> str:
                return str(tmp_path / "kept")

            def __exit__(self, *_: object) -> None:
                kept.extend(len(read_run(m.parent).samples) for m in sorted(tmp_path.rglob("run.json")))  # type: ignore[union-attr]

        measure_records(1, appended=16, stored=20)
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr("l2pd_bench.benchmark_records.TemporaryDirectory", Kept)
        speed, opening = measure_records(1, appended=40, stored=50)
        assert sorted(kept) == [40, 40, 50]  # the first is the warm-up's
        assert speed.at_least == 5000 and opening.at_most == 3

    @pytest.mark.skipif("L2PD_BENCH_FULL" not in os.environ, reason="starts a whole run to time it")
    def test_startup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The run's clock ends at its first forward; `--help` and `list` have the targets of the command line."""
        own = benchmark_startup._seconds
        monkeypatch.setattr(benchmark_startup, "_seconds", lambda words, code: own(words, code) if code else 0.1)
        figures = {f.name: f for f in benchmark_startup.measure_startup(1)}
        assert figures["l2pd-bench run, until its first forward, seconds"].median > 0.1
        assert [f.at_most for f in figures.values()] == [0.5, 1.0, None]

    def test_a_start_that_fails_is_no_figure(self) -> None:
        """A command that ends otherwise than expected is an error with what it said."""
        with pytest.raises(BenchError, match=r"(?s)'l2pd-bench runn' ended with 2, expected 0: .*No such command"):
            benchmark_startup._seconds(["runn"], 0)


WRONG = [
    (["nothing"], ["'nothing'", "counts", "engine", "straightforward"]),
    (["engin"], ["did you mean 'engine'"]),
    (["engine", "--rounds", "0"], ["rounds: got 0"]),
    (["engine", "--check"], ["--check", "counts only"]),
    (["records", "--accept"], ["--accept", "counts only"]),
    (["records", "--gen-length", "64"], ["--gen-length for records"]),
    (["all", "--model", "mini", "--dtype", "bfloat16"], ["--dtype for all", "name one"]),
    (["counts", "--prompt-length", "3"], ["--prompt-length for counts"]),
    (["engine", "--prompt-length", "0"], ["prompt-length: got 0"]),
    (["engine", "--batch-size", "0"], ["batch-size: got 0"]),
    (["engine", "--batch-size", "2", "--batch-size", "2"], ["batch-size: got 2, 2"]),
    (["engine", "--cache", "daul"], ["'daul'", "did you mean 'dual'"]),
    (["straightforward", "--cache", "dual", "--cache", "dual"], ["cache: got dual, dual"]),
    (["select", "--cache", "dual"], ["--cache for select"]),
    (["report", "--batch-size", "4"], ["--batch-size for report"]),
    (["engine", "--block-length", "1"], ["block-length: got 1"]),
    (["engine", "--model", "analytic"], ["'analytic'", "no weights"]),
    (["engine", "--model", "llada-8b"], ["--weights random"]),
]


@pytest.mark.parametrize(("words", "wanted"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_wrong_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], wanted: list[str]
) -> None:
    """A wrong request ends with exit code 2 and one line, before anything is measured."""
    assert call(monkeypatch, *words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert all(part in shown for part in wanted), shown
