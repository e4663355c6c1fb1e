"""`l2pd-bench bench records`: samples recorded per second, and how soon a large run can be continued.

Made-up samples go through the writer that every run uses, one fsync for each batch, into
a folder in the working directory (as runs do), which is deleted again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.benchmark_report import made_up, write_made_up
from l2pd_bench.schema import Warmup
from l2pd_bench.writer import open_run

BATCH, APPENDED, STORED = 16, 8_000, 200_000
PER_SECOND, OPEN_S = 5_000.0, 3.0  # targets
_WARMUP = Warmup(samples=1, rounds=2, seconds=1.0, is_stable=True)


def measure_records(rounds: int, *, appended: int = APPENDED, stored: int = STORED) -> list[Figure]:
    """Both figures."""
    with TemporaryDirectory(prefix="bench-records-", dir=Path.cwd()) as folder:
        root = Path(folder)
        speed = [_append(root / str(turn), appended) for turn in range(rounds + 1)][1:]
        write_made_up(root / "large", 0, stored)
        opening = [_open(root / "large", stored) for _ in range(rounds)]
    return [
        Figure(f"samples appended per second, fsync every {BATCH}", speed, at_least=PER_SECOND),
        Figure(f"opening a run of {stored} samples to continue it, seconds", opening, at_most=OPEN_S),
    ]


def _append(root: Path, count: int) -> float:
    manifest, samples = made_up(0, count)
    unstarted = replace(manifest, status="running", segments=[], totals=None)
    with open_run(root, unstarted) as writer:
        segment = writer.start_segment("bench", _WARMUP)
        mine = [replace(sample, segment=segment) for sample in samples]
        began = perf_counter()
        for at in range(0, count, BATCH):
            writer.append(mine[at : at + BATCH])
        return count / (perf_counter() - began)


def _open(root: Path, stored: int) -> float:
    manifest, _ = made_up(0, 0)
    began = perf_counter()
    with open_run(root, replace(manifest, planned=stored + 1)):
        return perf_counter() - began
