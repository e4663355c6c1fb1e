"""Suites and plans of several matrices: which cells they come to, and that one process decodes them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from l2pd_bench import plan as plans
from l2pd_bench import runner
from l2pd_bench.errors import UsageError
from l2pd_bench.plan import Plan, make_plan, suites
from l2pd_bench.records import load_runs

LLADA = "GSAI-ML/LLaDA-8B-Instruct"


def cells(plan: Plan, gen_length: int = 256) -> list[tuple[Any, ...]]:
    """Strategy, canvas, cache, EoT policy and batch size of every cell."""
    return [(strategy, *at) for at, names in plan.settings(gen_length).items() for strategy in names]


@pytest.fixture
def two_matrices(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the suite `two` says."""
    told: dict[str, Any] = {
        **{"task": ["analytic-copy"], "model": "analytic", "limit": 2},
        "matrices": [
            {"strategy": ["fixed-step"]},
            {"strategy": ["fixed-step", "threshold"], "eot": ["stop", "decode"]},
        ],
    }
    monkeypatch.setattr(plans, "read_suite", lambda name: dict(told))
    return told


class TestMatrices:
    def test_union(self, two_matrices: dict[str, Any]) -> None:
        """The cells of several matrices are those of each, and none twice."""
        plan = make_plan("two", {})

        assert plan.strategy == ["fixed-step", "threshold"]
        assert sorted(cells(plan)) == sorted(product(plan.strategy, [256], ["none"], ["stop", "decode"], [1]))

    def test_options_replace_in_all(self, two_matrices: dict[str, Any]) -> None:
        """An option replaces what every matrix says, and the rest of each stays."""
        assert cells(make_plan("two", {"eot": ["predict"]})) == [
            ("fixed-step", 256, "none", "predict", 1),
            ("threshold", 256, "none", "predict", 1),
        ]
        named = make_plan("two", {"strategy": ["factor"], "gen_length": [64], "cache": ["dual"]})
        assert set(cells(named)) == {("factor", 64, "dual", eot, 1) for eot in ("decode", "stop")}

    def test_one_matrix(self) -> None:
        """A plan without matrices spans its own lists, the strategies of a setting together."""
        plan = Plan(strategy=["a", "b"], task=["t"], cache=["none", "dual"], batch_size=[1, 4])

        assert cells(plan, 96) == [(s, 96, c, "decode", n) for c in ("none", "dual") for n in (1, 4) for s in "ab"]

    def test_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A matrix is checked as options are, and one that names what all share is refused."""
        with pytest.raises(UsageError, match="cache: got 'dual' twice"):
            Plan(strategy=["a"], task=["t"], matrices=({"cache": ["dual", "dual"]},))
        with pytest.raises(UsageError, match="gen-length: got 0"):
            Plan(strategy=["a"], task=["t"], matrices=({"gen_length": [0]},))

    def test_in_one_process(self, two_matrices: dict[str, Any], tmp_path: Path) -> None:
        """All cells are decoded in one session, so that each has a speedup against the reference."""
        outcome = runner.execute(make_plan("two", {"output": tmp_path}), command="l2pd-bench run two")
        runs = load_runs(tmp_path)

        assert outcome.exit_code == 0
        assert len(outcome.folders) == len(set(outcome.folders)) == len(runs) == 4
        assert len({run.manifest.segments[0].session for run in runs}) == 1

    def test_oracle_needs_the_baseline_in_its_setting(self, two_matrices: dict[str, Any], tmp_path: Path) -> None:
        """A strategy that is shown the baseline's decode is refused where another matrix has the baseline."""
        two_matrices["matrices"][1]["strategy"] = ["oracle"]
        with pytest.raises(UsageError, match="'oracle': got no decode of fixed-step"):
            runner.execute(make_plan("two", {"output": tmp_path / "out"}), command="test")

        assert not (tmp_path / "out").exists()


class TestSuites:
    def test_all_are_read(self) -> None:
        """Every suite of the package makes a plan; those of a paper are for its model and whole tasks."""
        made = {name: make_plan(name, {}) for name in suites()}
        papers = {name for name, plan in made.items() if plan.model == LLADA}

        assert papers == {"fast-dllm-table1", "learn2pd-kvcache", "learn2pd-table1"}
        assert {made[name].limit for name in papers} == {None}
        assert (made["mini"].model, made["mini"].limit) == ("mini", 20)

    def test_unknown_keys(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A suite with a key that no option has, or a matrix with one that matrices share, is refused by name."""
        monkeypatch.setattr(plans, "files", lambda package: tmp_path)
        for text, message in (
            ("stratgy: [fixed-step]\n", "suite 'x': setting: got 'stratgy'.*did you mean 'strategy'"),
            ("matrices: [{limit: 3}]\n", "suite 'x': setting: got 'limit', expected one of batch_size, cache, eot"),
        ):
            (tmp_path / "suite_x.yaml").write_text(text)
            with pytest.raises(UsageError, match=message):
                make_plan("x", {})

    @pytest.mark.parametrize(
        ("name", "count"), [("learn2pd-table1", 2 * 2 * 2), ("learn2pd-kvcache", 1 + 2 * 3), ("fast-dllm-table1", 8)]
    )
    def test_every_setting_has_its_baseline(self, name: str, count: int) -> None:
        """Fixed-step stands in every setting, and at every length without cache and EoT policy, as the papers have."""
        grid = cells(make_plan(name, {}))

        assert len(grid) == count
        for _, *setting in grid:
            assert ("fixed-step", *setting) in grid
            assert ("fixed-step", setting[0], "none", "decode", 1) in grid

    def test_scaled_down(self, tmp_path: Path) -> None:
        """The caches' suite runs on the embedded model by options alone: its seven cells, graded."""
        options = {"model": "mini", "task": ["mini-list"], "limit": 1, "gen_length": [32], "output": tmp_path}
        outcome = runner.execute(make_plan("learn2pd-kvcache", options), command="l2pd-bench run learn2pd-kvcache ...")
        runs = load_runs(tmp_path)

        assert outcome.exit_code == 0
        assert sorted(
            (r.manifest.strategy.name, r.manifest.protocol["cache"], r.manifest.protocol["eot"]) for r in runs
        ) == [
            ("fixed-step", "dual", "predict"),
            ("fixed-step", "none", "decode"),
            ("fixed-step", "none", "predict"),
            ("fixed-step", "prefix", "predict"),
            ("learn2pd", "dual", "predict"),
            ("learn2pd", "none", "predict"),
            ("learn2pd", "prefix", "predict"),
        ]

    def test_filter_that_is_not_there(self, tmp_path: Path) -> None:
        """For a model without a filter the suite ends before a forward, with the commands that make one."""
        options = {"model": "analytic", "task": ["analytic-copy"], "limit": 1, "output": tmp_path / "out"}
        with pytest.raises(UsageError, match=r"none is shipped for model 'analytic'.*filter collect.*filter train"):
            runner.execute(make_plan("learn2pd-table1", {**options, "gen_length": [32]}), command="test")

        assert not (tmp_path / "out").exists()
