"""A run that is continued with another number of torch threads: its seconds would be of unlike clocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from record_factory import content

from l2pd_bench import runner
from l2pd_bench.errors import UsageError
from l2pd_bench.executor import LocalExecutor
from l2pd_bench.job import prepare_job
from l2pd_bench.plan import Plan, make_plan
from l2pd_bench.records import load_runs


def plan(output: Path, **options: Any) -> Plan:
    """One row."""
    asked = {"model": "analytic", "task": ["analytic-copy"], "strategy": ["fixed-step"], "gen_length": [4]}
    return make_plan(None, {**asked, "block_length": 4, "limit": 2, "output": output, **options})


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Path]:
    """A run of two items, begun with one thread; now torch has two."""
    torch.set_num_threads(1)
    runner.execute(plan(tmp_path), command="")
    torch.set_num_threads(2)
    yield tmp_path
    torch.set_num_threads(1)


def test_refused(begun: Path) -> None:
    """It is refused with what to do, and nothing is touched; with as many threads, or begun anew, it goes on."""
    before = content(begun)
    with pytest.raises(
        UsageError, match=r"got 2 torch threads, expected 1, .*clocks; set OMP_NUM_THREADS=1, .*--restart"
    ):
        runner.execute(plan(begun, limit=3), command="")
    assert content(begun) == before

    torch.set_num_threads(1)
    assert runner.execute(plan(begun, limit=3), command="").exit_code == 0
    (run,) = load_runs(begun)
    assert len(run.samples) == 3 and run.manifest.notes == []
    torch.set_num_threads(2)
    runner.execute(plan(begun, limit=3), command="", restart=True)
    (run,) = load_runs(begun)
    assert run.manifest.environment["torch_threads"] == 2


def test_nothing_is_begun_beside_what_is_refused(begun: Path) -> None:
    """Another row of the same command leaves no folder of the wrong number of threads behind."""
    before = content(begun)
    with pytest.raises(UsageError, match="set OMP_NUM_THREADS=1"):
        runner.execute(plan(begun, limit=3, strategy=["threshold", "fixed-step"]), command="")
    assert content(begun) == before


def test_nothing_left(begun: Path) -> None:
    """Where nothing would be timed there is nothing to refuse."""
    assert runner.execute(plan(begun), command="").exit_code == 0


def test_workers(begun: Path) -> None:
    """Ray's workers have one thread whatever is set, so what began otherwise is for one process to continue."""
    asked = plan(begun, limit=3)
    job = prepare_job(asked)
    agenda = replace(job.agenda(), machine={**job.agenda().machine, "torch_threads": 7})
    far = replace(asked, executor="ray", workers=1)
    with pytest.raises(UsageError, match=r"got 7 .* clocks; use --executor local and set OMP_NUM_THREADS=1"):
        runner.run_agenda(far, agenda, LocalExecutor(job, 0), command="")


def test_an_accelerator(tmp_path: Path) -> None:
    """An accelerator's seconds do not depend on the threads beside it."""
    for limit, threads in ((1, 1), (2, 64)):
        asked = plan(tmp_path, limit=limit)
        job = prepare_job(asked)
        agenda = job.agenda()
        facts, machine = agenda.facts._replace(device="NVIDIA H200"), {**agenda.machine, "torch_threads": threads}
        agenda = replace(agenda, facts=facts, machine=machine)
        assert runner.run_agenda(asked, agenda, LocalExecutor(job, 0), command="").exit_code == 0
    (run,) = load_runs(tmp_path)
    assert len(run.samples) == 2
