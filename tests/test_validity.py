"""VALID and INVALID: each reason by itself, and what is no reason."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import FAST, FIXED, WARMUP, load_run, manifest, one_section, record, rows, sample

from l2pd_bench.foreign import others
from l2pd_bench.records import Run
from l2pd_bench.report import make_board
from l2pd_bench.report.columns import COLUMNS, best
from l2pd_bench.report.validity import DRIFT, drifts
from l2pd_bench.schema import Alone, Nfe, Seconds
from l2pd_bench.writer import open_run

TWENTY = range(20)


def noisy(root: Path, spec: str, speed: Callable[[float], float], *, seed: int, count: int = 60, **setting: Any) -> Run:
    """A run whose samples take noisy times; `speed` of the machine at the share of the session that is over."""
    rng = random.Random(seed)
    samples = []
    for i in range(count):
        seconds = rng.lognormvariate(0, 0.15) / speed(i / count)
        times = Seconds(decode=seconds, model=0.9 * seconds, select=0.0, latency=seconds)
        samples.append(sample(i, seconds=times, forced_commits=0, elapsed_s=i / count))
    return record(root, manifest(spec, planned=count, **setting), samples)


def reasons(*runs: Run) -> tuple[str, ...]:
    """Why the first strategy's row is INVALID."""
    return rows(one_section(*runs))[runs[0].manifest.strategy.spec].invalid


class TestReasons:
    def test_none(self, tmp_path: Path) -> None:
        """A quiet run is VALID."""
        assert reasons(record(tmp_path, manifest(FAST), [sample(i) for i in TWENTY])) == ()

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"status": "oom"}, "1 of 20 samples ran out of memory"),
            ({"status": "error"}, "1 of 20 samples ended in an error"),
        ],
    )
    def test_samples(self, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
        """One sample that did not come to an end is enough."""
        samples = [sample(i, **(change if i == 3 else {})) for i in TWENTY]
        assert reasons(record(tmp_path, manifest(FAST), samples)) == (reason,)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"foreign": ["train (7)"]}, "other programs computed on the device: train (7)"),
            (
                {"alone": Alone(samples=2, differing=1)},
                "tokens depend on the batch: 1 of 2 samples came out otherwise when alone",
            ),
        ],
    )
    def test_segments(self, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
        """What was seen in a segment counts for the run."""
        run = record(tmp_path, manifest(FAST), [sample(i) for i in TWENTY])
        segments = [replace(run.manifest.segments[0], **change)]
        assert reasons(replace(run, manifest=replace(run.manifest, segments=segments))) == (reason,)

    def test_same_alone(self, tmp_path: Path) -> None:
        """Samples that are the same alone are no reason."""
        run = record(tmp_path, manifest(FAST), [sample(i) for i in TWENTY])
        segments = [replace(run.manifest.segments[0], alone=Alone(samples=2, differing=0))]
        assert reasons(replace(run, manifest=replace(run.manifest, segments=segments))) == ()

    def test_forced(self, tmp_path: Path) -> None:
        """A strategy that leaves every fifth choice to the engine is INVALID, every tenth is not."""
        for share, is_invalid in ((10, False), (5, True)):
            samples = [sample(i, forced_commits=64 // share) for i in TWENTY]  # of 64 forwards
            found = reasons(record(tmp_path / str(share), manifest(FAST), samples))
            assert bool(found) == is_invalid
            assert not found or "after 19 % of its forwards the strategy chose nothing" in found[0]

    def test_a_decode_that_failed(self, tmp_path: Path) -> None:
        """A run that failed once is INVALID, also when it was repeated and has come to its end."""
        with open_run(tmp_path, manifest(FAST, planned=20)) as writer:
            writer.append([sample(i, writer.start_segment("s0", WARMUP)) for i in range(1)])
            writer.finish("failed", "OutOfMemoryError: of 80 GiB\nmore")
        assert reasons(load_run(writer.folder))[0] == "a decode failed: OutOfMemoryError: of 80 GiB"
        with open_run(tmp_path, manifest(FAST, planned=20)) as writer:
            segment = writer.start_segment("s1", WARMUP)
            writer.append([sample(i, segment) for i in range(1, 20)])
            writer.finish("finished")
        assert reasons(load_run(writer.folder)) == ("a decode failed: OutOfMemoryError: of 80 GiB",)

    def test_an_error_that_was_survived(self, tmp_path: Path) -> None:
        """A run that survived an out-of-memory and came to its end is INVALID, with the first line of that note."""
        with open_run(tmp_path, manifest(FAST, planned=20)) as writer:
            segments = [writer.start_segment("s0", WARMUP) for _ in range(2)]
            writer.note_error(segments[0], "out of memory with 16 samples at once\nmore")
            writer.append([sample(i, segments[i % 2]) for i in TWENTY])
            writer.finish("finished")
        assert reasons(load_run(writer.folder)) == ("a decode failed: out of memory with 16 samples at once",)

    def test_few_batches(self, tmp_path: Path) -> None:
        """Sixteen samples in two batches are two observations: too few, and no speed is told from them."""
        runs = []
        for spec, pace in ((FIXED, 1.0), (FAST, 4.0)):
            made = [sample(i, speed=pace, forced_commits=0) for i in range(16)]
            shared = [replace(s, elapsed_s=pace + i // 8) for i, s in enumerate(made)]
            runs.append(record(tmp_path, manifest(spec, planned=16, batch_size=8), shared))
        row = rows(one_section(*runs))[FAST]

        assert row.invalid == ("too few samples for a claim: 16 in 2 turns, expected at least 10 turns",)
        assert row.verdict is not None and row.verdict.speed == "undecided"

    def test_few(self, tmp_path: Path) -> None:
        """Nine samples are too few for a claim, ten are not."""
        for count in (9, 10):
            found = reasons(record(tmp_path / str(count), manifest(FAST), [sample(i) for i in range(count)]))
            assert found == (("too few samples for a claim: 9, expected at least 10",) if count == 9 else ())


class TestDrift:
    @pytest.mark.parametrize(("change", "is_invalid"), [(1.0, False), (1.05, False), (1.3, True), (0.7, True)])
    def test_slope(self, tmp_path: Path, change: float, is_invalid: bool) -> None:
        """A machine that slowly becomes a third faster or slower is noticed under noise of 15 %; by 5 % it may."""
        run = noisy(tmp_path, FIXED, lambda over: 1 + (change - 1) * 2 * over, seed=4, count=200)
        found = reasons(run)

        assert bool(found) == is_invalid
        if found:
            ratio = float(found[0].partition("changed by ")[2].partition(" %")[0]) / 100 + 1
            assert ratio == pytest.approx((1 + 0.5 * (change - 1)) / (1 + 1.5 * (change - 1)), rel=0.12)

    def test_noise_alone(self, tmp_path: Path) -> None:
        """Of 100 runs on a steady but noisy machine, at most two are taken to have drifted beyond the limit."""
        shown = 0
        for seed in range(100):
            run = noisy(tmp_path / str(seed), FIXED, lambda _: 1.0, seed=seed)
            shown += any(drift.is_shown for drift in drifts([run]).values())
        assert shown <= 2

    def test_pooled(self, tmp_path: Path) -> None:
        """Rows that took turns tell together what one of them by itself is too short to tell."""
        slower = [noisy(tmp_path, f"s{i}", lambda over: 1.6 if over < 0.5 else 1.0, seed=i, count=20) for i in range(8)]

        assert drifts(slower[:1]) == {}
        (drift,) = drifts(slower).values()
        assert drift.ratio == pytest.approx(1.6, rel=0.1) and drift.low > 1 + DRIFT
        assert all("the machine's speed drifted" in row.invalid[0] for row in one_section(*slower).rows)

    def test_strategies_differ(self, tmp_path: Path) -> None:
        """Rows of different speeds on a steady machine show no drift, though one ends where the other begins."""
        fast = noisy(tmp_path, FAST, lambda _: 9.0, seed=1)
        slow = noisy(tmp_path, FIXED, lambda _: 1.0, seed=2)
        late = replace(slow, samples=tuple(replace(s, elapsed_s=s.elapsed_s + 1) for s in slow.samples))

        assert not any(drift.is_shown for drift in drifts([fast, late]).values())

    def test_items_in_order(self, tmp_path: Path) -> None:
        """Items sorted by length, which cost more for each FLOP the more forwards they take, are no drift."""
        rng, samples = random.Random(3), []
        for i in range(200):
            steps = 1 + i // 20
            seconds = (0.01 * steps + 2e-11 * 10**9) * rng.lognormvariate(0, 0.1)
            times = Seconds(decode=seconds, model=0.9 * seconds, select=0.0, latency=seconds)
            nfe = Nfe(full=1, window=steps, auxiliary=0)
            samples.append(sample(i, seconds=times, nfe=nfe, flops=10**9, forced_commits=0, elapsed_s=float(i)))

        assert reasons(record(tmp_path, manifest(FAST, planned=200), samples)) == ()

    def test_other_sessions(self, tmp_path: Path) -> None:
        """What ran in other processes, or on other tasks, did not take turns."""
        runs = [
            noisy(tmp_path, FIXED, lambda _: 1.0, seed=1),
            noisy(tmp_path, FIXED, lambda _: 3.0, seed=2, task="mini-code"),
        ]
        assert len(drifts(runs)) == 2 and not any(d.is_shown for d in drifts(runs).values())


def test_not_ranked(tmp_path: Path) -> None:
    """An INVALID row stands behind the VALID ones, is the best of nothing, and its reason is told."""
    good = record(tmp_path, manifest(FIXED), [sample(i) for i in TWENTY])
    bad = record(tmp_path, manifest(FAST), [sample(i, speed=9.0, status="oom" if i == 0 else "ok") for i in TWENTY])
    other = record(tmp_path, manifest("slow"), [sample(i, speed=0.5) for i in TWENTY])
    (section,) = make_board([good, bad, other]).sections

    assert [row.spec for row in section.rows] == [FIXED, "slow", FAST]
    assert all(2 not in best(section, column) for column in COLUMNS)
    assert f"INVALID: 1 of 20 samples ran out of memory: {FAST}" in section.remarks


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("", []),
        ("GPU-a, 10, python\n", []),
        ("GPU-a, 10, python\nGPU-a, 11, /usr/bin/train\nGPU-b, 12, other\n", ["/usr/bin/train (11)"]),
        ("GPU-a, 77, python\n", []),  # in a container: it must be ours
        ("GPU-a, 77, python\nGPU-a, 78, python\n", ["python (78)"]),
        ("GPU-b, 10, python\n", []),
    ],
)
def test_programs_on_the_device(table: str, found: list[str]) -> None:
    """Of the programs on our device, all but our own are foreign; process 10 is ours, on device a."""
    assert others(table, "a", 10) == found
