"""Runs on real ray: workers that are killed, nodes that come and go, one machine and Ctrl-C."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l2pd_bench import ray_executor, runner
from l2pd_bench.errors import UsageError
from l2pd_bench.plan import make_plan
from l2pd_bench.records import load_runs

PROGRAM = str(Path(sys.executable).with_name("l2pd-bench"))
SLOW = '''
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import ClassVar

from l2pd_bench.strategies.base import Decision, StepView, Strategy
from l2pd_bench.strategies.rules import best


@dataclass(frozen=True)
class Slow(Strategy):
    """Takes time, without taking the processor's, while there is a file that says so."""

    name: ClassVar[str] = "slow"

    def select(self, view: StepView) -> Decision:
        if Path("slowly").exists():
            sleep(0.05)
        return Decision(best(view.confidence, view.candidates))
'''
WORDS = shlex.split("--model analytic --task analytic-copy --strategy fixed-step --strategy ./slow.py:Slow --limit")
RAY = ("--executor", "ray", "--workers", "2")
STEP_S = 120.0  # for anything that is waited for, on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where runs are started, slowly, with a strategy of one's own."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slowly").touch()
    return tmp_path


def command(folder: Path, limit: int, *words: str) -> subprocess.Popen[str]:
    """A run in a process of its own, with records in `folder`/out."""
    line = [PROGRAM, "run", *WORDS, str(limit), "--output", "out", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def until(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What `what` gives, once it gives something, while a process runs."""
    end = time.monotonic() + STEP_S
    while not (found := what()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.1)
    return found


def lines(out: Path) -> int:
    """How many samples are recorded."""
    return sum(len(path.read_bytes().splitlines()) for path in out.rglob("samples.jsonl"))


def workers(out: Path) -> set[int]:
    """The processes that have recorded something."""
    manifests = [json.loads(path.read_text()) for path in out.rglob("run.json")]
    return {segment["pid"] for manifest in manifests for segment in manifest["segments"]}


def content(out: Path) -> dict[tuple[str, str], Any]:
    """What is recorded of every sample, but for seconds and who decoded it."""
    found = {}
    for run in load_runs(out):
        for s in run.samples:
            assert (run.folder.name, s.doc_id) not in found, "recorded twice"
            found[run.folder.name, s.doc_id] = (s.output_ids, s.text, s.score, s.tokens, s.nfe, s.positions, s.status)
    return found


def undisturbed(folder: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What one process records."""
    monkeypatch.chdir(folder)
    options = {"model": "analytic", "task": ["analytic-copy"], "strategy": ["fixed-step", "./slow.py:Slow"]}
    plan = make_plan(None, {**options, "limit": limit, "output": folder / "undisturbed"})
    assert runner.execute(plan, command="l2pd-bench run ...").exit_code == 0
    return content(folder / "undisturbed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with one processor."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_executor.SETTINGS.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        Path("/tmp/ray").mkdir(exist_ok=True)  # where ray notes the address, whatever it is told
        made = Cluster(initialize_head=True, head_node_args=node(_system_config=QUICK))
        yield made
        made.shutdown()


QUICK = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}


def node(**more: Any) -> dict[str, Any]:
    """What a node of the cluster is made with."""
    return {"num_cpus": 1, "include_dashboard": False, "object_store_memory": ray_executor.STORE_BYTES, **more}


class TestCluster:
    def test_deaths_of_workers_and_nodes(self, folder: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker killed, a node lost and a node that joins in one run: it ends with an undisturbed run's records."""
        limit, out = 60, folder / "out"
        second = cluster.add_node(**node())
        run = command(folder, limit, *RAY, "--address", cluster.address)
        try:
            until(lambda: len(workers(out)) == 2, run)
            os.kill(min(workers(out)), signal.SIGKILL)
            until(lambda: len(workers(out)) == 3, run)  # it is replaced
            before = lines(out)
            cluster.remove_node(second, allow_graceful=False)
            until(lambda: lines(out) > before + 2, run)  # the other goes on
            known = workers(out)
            cluster.add_node(**node())
            until(lambda: workers(out) > known, run)  # the new node takes part
            (folder / "slowly").unlink()
            stdout, stderr = run.communicate(timeout=STEP_S)
        finally:
            run.kill()

        assert "slow" in stdout and "raylet" not in stdout
        assert stderr.count("died: ") == 2
        assert content(out) == undisturbed(folder, limit, monkeypatch)

    def test_refusals(self, cluster: Any, tmp_path: Path) -> None:
        """What no worker can load, and what a cluster does not have, is refused with the reason; all is given back."""
        options: dict[str, Any] = {"strategy": ["threshold"], "task": ["mini-math"], "executor": "ray", "workers": 1}
        options |= {"address": cluster.address, "output": tmp_path / "out"}
        for given, words in (
            ({"model": "mini:weights=/nowhere"}, "/nowhere"),
            ({"device": "cuda"}, "no GPU"),
            ({"workers": None}, "--workers N"),
        ):
            with pytest.raises(UsageError, match=words):
                runner.execute(make_plan(None, {**options, **given}), command="l2pd-bench run ...")
        assert not (tmp_path / "out").exists()


class TestOneMachine:
    def test_ctrl_c_then_local(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C writes what is under way and leaves no process; one process completes the run, all as undisturbed."""
        limit, out = 12, folder / "out"
        run = command(folder, limit, *RAY)
        try:
            until(lambda: len(workers(out)) == 2, run)
            pids = workers(out)
            run.send_signal(signal.SIGINT)
            _, stderr = run.communicate(timeout=STEP_S)
        finally:
            run.kill()

        assert run.returncode == 130 and "finished and written" in stderr and "to continue: " in stderr
        assert 0 < len(content(out)) < 2 * limit
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        threads = {run.manifest.environment["torch_threads"] for run in load_runs(out)}
        assert threads == {1}

        (folder / "slowly").unlink()
        complete = undisturbed(folder, limit, monkeypatch)
        assert content(out).items() < complete.items()
        command(folder, limit).communicate(timeout=STEP_S)
        assert content(out) == complete


class TestWrongInputs:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"executor": "rai"}, "did you mean 'ray'"),
            ({"workers": 2}, "without --executor ray"),
            ({"address": "node:6379"}, "without --executor ray"),
            ({"executor": "ray", "workers": 0}, "at least 1"),
            ({"executor": "ray", "trace": True}, "--executor local"),
            ({"executor": "ray", "watch": True}, "--executor local"),
            ({"executor": "ray", "device": "cuda:1"}, "a worker has one device"),
        ],
    )
    def test_plan(self, options: dict[str, Any], words: str) -> None:
        """What ray's executor cannot do, and its options without it, are refused with what to do."""
        with pytest.raises(UsageError, match=words):
            make_plan(None, {"strategy": ["threshold"], "task": ["mini-math"], **options})

    def test_no_cluster(self) -> None:
        """An address where nobody answers is refused at once, with what to do."""
        given = {"executor": "ray", "workers": 1, "address": "127.0.0.1:1"}
        plan = make_plan(None, {"strategy": ["threshold"], "task": ["mini-math"], **given})

        with pytest.raises(UsageError, match="ray start"):
            runner.execute(plan, command="l2pd-bench run ...")

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without ray the message names the extra."""
        monkeypatch.setattr(ray_executor, "find_spec", lambda name: None)
        plan = make_plan(None, {"strategy": ["threshold"], "task": ["mini-math"], "executor": "ray"})

        with pytest.raises(UsageError, match=r'pip install "l2pd-bench\[ray\]"'):
            runner.execute(plan, command="l2pd-bench run ...")
