"""Shared fixtures: the embedded hosts, loaded once, and prompts for them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from record_factory import fill

from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.analytic import load as load_analytic
from l2pd_bench.hosts.base import HostRequest
from l2pd_bench.hosts.mini import MiniHost, load
from l2pd_bench.records import load_runs
from l2pd_bench.report import Board, make_board
from l2pd_bench.tasks.mini_code import MiniCode
from l2pd_bench.tasks.mini_list import MiniLineRandom, MiniList
from l2pd_bench.tasks.mini_math import MiniMath


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two cores are shared with other work; one thread also makes float sums repeatable."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def steady_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores are shared with other work: only the tests of drift itself may call a row INVALID for it."""
    if request.path.name != "test_validity.py":
        monkeypatch.setattr("l2pd_bench.report.validity.DRIFT", 1e9)


@pytest.fixture(scope="session")
def mini() -> MiniHost:
    """The embedded model on the CPU in float32."""
    return load(HostRequest("mini", device="cpu"))


@pytest.fixture(scope="session")
def mini64(mini: MiniHost) -> MiniHost:
    """The embedded model in float64."""
    return MiniHost("mini", copy.deepcopy(mini.model).double(), mini.tokenizer, mini.weights_hash)


@pytest.fixture(scope="session")
def analytic() -> AnalyticHost:
    """The host with exact marginals."""
    return load_analytic(HostRequest("analytic"))


@pytest.fixture(scope="session")
def mini_prompts(mini: MiniHost) -> Callable[[int, int], list[list[int]]]:
    """Encoded prompts of the four mini tasks in turn: `mini_prompts(count, seed)`."""

    def draw(count: int, seed: int) -> list[list[int]]:
        rng = random.Random(seed)
        tasks = (MiniMath(), MiniCode(), MiniList(), MiniLineRandom())
        return [mini.encode(tasks[i % len(tasks)].draw(rng).prompt) for i in range(count)]

    return draw


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of made-up runs that all tests read and none changes."""
    root = tmp_path_factory.mktemp("results")
    fill(root)
    return root


@pytest.fixture(scope="session")
def board(results: Path) -> Board:
    """Its board."""
    return make_board(load_runs(results))
