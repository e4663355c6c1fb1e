"""Runs of a sweep that never took place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from record_factory import manifest, record, sample

from l2pd_bench.records import Run


def swept(tmp_path: Path, accuracies: dict[str, float], *, count: int = 50, **setting: object) -> list[Run]:
    """Runs of these strategies; the first number of a spec's parameter is its speed, and fixed-step's is 1."""
    runs = []
    for spec, accuracy in accuracies.items():
        speed = float(spec.partition("=")[2].partition(",")[0] or 1)
        samples = [
            replace(sample(i, speed=speed), correct=i < accuracy, score=float(i < accuracy)) for i in range(count)
        ]
        runs.append(record(tmp_path, manifest(spec, planned=count, **setting), samples))
    return runs


CURVE = {"fixed-step": 45, "rule:x=2": 45, "rule:x=4": 44, "rule:x=8": 40, "rule:x=16": 20}
