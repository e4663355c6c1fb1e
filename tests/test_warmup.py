"""Before the first timed batch: decoding until times repeat, and alone as in a batch; and who else is on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from record_factory import load_run

from l2pd_bench import cli, foreign, runner, worker
from l2pd_bench.decoded import BatchDecoded, Decoded
from l2pd_bench.foreign import ForeignWatch, foreign_programs
from l2pd_bench.plan import make_plan
from l2pd_bench.records import load_runs
from l2pd_bench.report import make_board
from l2pd_bench.schema import Alone
from l2pd_bench.warmup import MOST_ROUNDS, compare_alone, warm_up


def decoded(seconds: float, *ids: list[int]) -> BatchDecoded:
    """A batch of these outputs that took so long."""
    return BatchDecoded([Decoded(each) for each in ids or ([1],)], seconds, seconds, 0.0)


class TestWarmUp:
    @pytest.mark.parametrize(
        ("times", "rounds", "is_stable"),
        [
            ([5.0, 1.0, 1.05, 9.0], 3, True),
            ([1.0, 1.09, 9.0], 2, True),
            ([1.0, 1.11, 1.11, 9.0], 3, True),
            ([8.0, 4.0, 2.0, 1.0], MOST_ROUNDS, False),
        ],
    )
    def test_rounds(self, times: Sequence[float], rounds: int, is_stable: bool) -> None:
        """It stops once a round takes as long as the one before, within a tenth, and gives up after four."""
        left = iter(times)
        warmup, last = warm_up(lambda: decoded(next(left)))

        assert (warmup.rounds, warmup.is_stable) == (rounds, is_stable)
        assert warmup.seconds == last.decode_s == times[rounds - 1]

    def test_alone(self) -> None:
        """The first two samples of a batch are compared with themselves alone; of one there is nothing to compare."""
        together = decoded(1.0, [1, 2], [3, 4], [5, 6])
        asked: list[int] = []

        def one(i: int) -> BatchDecoded:
            asked.append(i)
            return decoded(1.0, [1, 2] if i == 0 else [3, 9])

        assert compare_alone(together, one) == Alone(samples=2, differing=1)
        assert asked == [0, 1]
        assert compare_alone(decoded(1.0, [1]), one) is None


SMALL = {"strategy": ["fixed-step"], "task": ["analytic-copy"], "model": "analytic", "gen_length": [8]}


class TestInARun:
    def test_recorded(self, tmp_path: Path) -> None:
        """A segment tells its warm-up, and of batches that a sample is the same alone; samples tell when they ended."""
        plan = make_plan(None, {**SMALL, "block_length": 8, "batch_size": [1, 4], "limit": 12, "output": tmp_path})
        runner.execute(plan, command="x")

        for run in load_runs(tmp_path):
            size = run.manifest.protocol["batch_size"]
            (segment,) = run.manifest.segments
            assert 2 <= segment.warmup.rounds <= MOST_ROUNDS and segment.warmup.samples == size
            assert segment.alone == (Alone(samples=2, differing=0) if size == 4 else None)
            ends = [s.elapsed_s for s in run.samples]
            assert (
                ends == sorted(ends) and ends[0] > 0 and len(set(ends)) == {1: 12, 4: 2}[int(str(size))]
            )  # twice a batch in a turn

    def test_batch_dependent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where a sample comes out otherwise alone, its row is INVALID, and the command ends with 1."""
        real = worker.decode

        def batched(host: Any, strategy: Any, ids: Any, *rest: Any, **named: Any) -> BatchDecoded:
            found = real(host, strategy, ids, *rest, **named)
            if len(ids) > 1:
                found.samples[1].output_ids[0] ^= 1
            return found

        monkeypatch.setattr(worker, "decode", batched)
        words = "run --strategy fixed-step --task analytic-copy --model analytic --gen-length 8 --block-length 8"
        words += f" --batch-size 4 --limit 12 --output {tmp_path / 'out'}"
        monkeypatch.setattr("sys.argv", ["l2pd-bench", *words.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()

        ((row,),) = (section.rows for section in make_board(load_runs(tmp_path / "out")).sections)
        assert row.invalid[0] == "tokens depend on the batch: 1 of 2 samples came out otherwise when alone"
        assert ended.value.code == 1 and "1 rows are INVALID" in capsys.readouterr().err

    def test_foreign(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program that appears on the device in the middle of a run stands in every row that was being timed."""
        seen = iter([[], [], ["train (7)"]])

        class Watch:
            def __init__(self, device: torch.device) -> None:
                pass

            def see(self, *, always: bool = False) -> list[str]:
                return next(seen, [])

        monkeypatch.setattr(worker, "ForeignWatch", Watch)
        plan = make_plan(None, {**SMALL, "strategy": ["fixed-step", "fixed-step:k=2"], "block_length": 8,
                                "limit": 12, "output": tmp_path})  # fmt: skip
        for folder in runner.execute(plan, command="x").folders:
            (segment,) = load_run(folder).manifest.segments
            assert segment.foreign == ["train (7)"]


class TestDevice:
    def test_cpu(self) -> None:
        """A CPU is shared by nature: nothing is looked for."""
        assert ForeignWatch(torch.device("cpu")).see(always=True) == []

    def test_tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the tool lists for our device is reported; without it nothing is; where it fails, that is."""
        tool = tmp_path / "nvidia-smi"
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="aa-bb"))
        device = torch.device("cuda")

        with monkeypatch.context() as patched:
            patched.setattr(foreign.shutil, "which", lambda _: None)
            assert foreign_programs(device) == []
        tool.write_text("#!/bin/sh\nprintf 'GPU-aa-bb, 1, ours\\nGPU-aa-bb, 2, train\\nGPU-cc, 3, other\\n'\n")
        tool.chmod(0o755)
        assert foreign_programs(device) == ["train (2)"]
        tool.write_text("#!/bin/sh\nexit 9\n")
        assert foreign_programs(device) == ["unknown: nvidia-smi ended with 9"]

    def test_rarely(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between batches the tool is asked at most every ten seconds, unless it must be."""
        asked: list[object] = []
        now = iter([0.0, 5.0, 11.0, 11.5, 12.0])
        monkeypatch.setattr(foreign, "foreign_programs", lambda device: asked.append(device) or ["x (1)"])
        monkeypatch.setattr(foreign, "monotonic", lambda: next(now))
        watch = ForeignWatch(torch.device("cuda"))

        assert watch.see() == ["x (1)"]  # at 0
        assert watch.see() == []  # asked at 5
        assert watch.see() == ["x (1)"]  # asked at 11, and again for the time it was
        assert watch.see(always=True) == ["x (1)"]
        assert len(asked) == 3
