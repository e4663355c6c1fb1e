"""Shared fixtures: the embedded hosts, loaded once, and prompts for them."""

from __future__ import annotations

import copy
import gc
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the process that hands out tests needs none of it
    from l2pd_bench.hosts.analytic import AnalyticHost
    from l2pd_bench.hosts.mini import MiniHost
    from l2pd_bench.report import Board

# Each worker has a core; a second thread would fight for the other's, in the processes that tests start, too.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C is Python's here, also where a shell has started the tests in the background, with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """With several workers, each begins with a part of the files as they stand, so that neighbours share fixtures."""
    if config.getoption("dist", "no") == "load":  # what `-n` alone asks for
        config.option.dist = "worksteal"


def pytest_collection_finish() -> None:
    """Leave libraries and collected tests out of every later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread makes float sums repeatable."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def steady_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores are shared with other work: only the tests of drift itself may call a row INVALID for it."""
    if request.path.name != "test_validity.py":
        monkeypatch.setattr("l2pd_bench.report.validity.DRIFT", 1e9)


@pytest.fixture(scope="session")
def mini() -> MiniHost:
    """The embedded model on the CPU in float32."""
    from l2pd_bench.hosts.base import HostRequest
    from l2pd_bench.hosts.mini import load

    return load(HostRequest("mini", device="cpu"))


@pytest.fixture(scope="session")
def mini64(mini: MiniHost) -> MiniHost:
    """The embedded model in float64."""
    from l2pd_bench.hosts.mini import MiniHost

    return MiniHost("mini", copy.deepcopy(mini.model).double(), mini.tokenizer, mini.weights_hash)


@pytest.fixture(scope="session")
def analytic() -> AnalyticHost:
    """The host with exact marginals."""
    from l2pd_bench.hosts.analytic import load
    from l2pd_bench.hosts.base import HostRequest

    return load(HostRequest("analytic"))


@pytest.fixture(scope="session")
def mini_prompts(mini: MiniHost) -> Callable[[int, int], list[list[int]]]:
    """Encoded prompts of the four mini tasks in turn: `mini_prompts(count, seed)`."""
    from l2pd_bench.tasks.mini_code import MiniCode
    from l2pd_bench.tasks.mini_list import MiniLineRandom, MiniList
    from l2pd_bench.tasks.mini_math import MiniMath

    def draw(count: int, seed: int) -> list[list[int]]:
        rng = random.Random(seed)
        tasks = (MiniMath(), MiniCode(), MiniList(), MiniLineRandom())
        return [mini.encode(tasks[i % len(tasks)].draw(rng).prompt) for i in range(count)]

    return draw


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of made-up runs that all tests read and none changes."""
    from record_factory import fill

    root = tmp_path_factory.mktemp("results")
    fill(root)
    return root


@pytest.fixture(scope="session")
def board(results: Path) -> Board:
    """Its board."""
    from l2pd_bench.records import load_runs
    from l2pd_bench.report import make_board

    return make_board(load_runs(results))
