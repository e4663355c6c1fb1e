"""Sweeps: what strategies declare, what is run and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from record_factory import content
from test_cli import call

from l2pd_bench import check as kit
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.outline import of_object, of_source
from l2pd_bench.records import load_runs
from l2pd_bench.registry import load_strategy
from l2pd_bench.specs import show
from l2pd_bench.strategies.base import Knob
from l2pd_bench.sweep import at, expand, knob_fault, numbers

OWN = sorted(
    point.name
    for point in importlib.metadata.entry_points(group="l2pd_bench.strategies")
    if point.dist and point.dist.name == "l2pd-bench"
)
SWEPT = [name for name in OWN if load_strategy(name)[0].knob is not None]
SMALL = ["--task", "mini-line-random", "--limit", "3", "--gen-length", "32"]
PLUGIN = """\
from dataclasses import dataclass
from typing import ClassVar

from l2pd_bench.strategies.base import Decision, Knob, Strategy
from l2pd_bench.strategies.rules import best, require


@dataclass(frozen=True)
class Mine(Strategy):
    name: ClassVar[str] = "mine"
    {knob}
    tau: float = 0.7

    def __post_init__(self):
        require(self.tau <= 1, "tau", self.tau, "at most 1")

    def select(self, view):
        return Decision((view.confidence >= self.tau) | best(view.confidence, view.candidates))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a strategy with this declaration; returns how it is named on the command line."""
    monkeypatch.chdir(tmp_path)

    def write(knob: str) -> str:
        Path("mine.py").write_text(PLUGIN.format(knob=knob))
        return "./mine.py:Mine"

    return write


class TestKnobs:
    def test_who_declares_one(self) -> None:
        """Every built-in but the oracle, which has nothing to set."""
        assert set(OWN) - set(SWEPT) == {"oracle"}

    @pytest.mark.parametrize("name", SWEPT)
    def test_values(self, name: str) -> None:
        """A built-in's knob names a parameter, takes every value, and its values only rise or only fall."""
        strategy, spec = load_strategy(name)
        assert strategy.knob is not None
        parameter, values = strategy.knob

        assert parameter in spec.params
        assert knob_fault(name) is None
        assert [load_strategy(at(name, parameter, show(v)))[1].params[parameter] for v in values] == list(values)
        assert len(values) >= 4  # fewer make no curve
        rising = sorted(set(values))
        assert list(values) in (rising, rising[::-1])

    def test_fixed_step_forwards_fall(self, analytic: AnalyticHost) -> None:
        """Along the knob of fixed-step, a block of 32 takes 32 / k forwards."""
        settings = DecodeSettings(gen_length=32, block_length=32)
        strategy = load_strategy("fixed-step")[0]
        assert strategy.knob is not None
        forwards = [
            decode(analytic, load_strategy(f"fixed-step:k={k}")[0], [analytic.encode("copy a b c")], [0], settings)
            .samples[0]
            .nfe_full
            for k in strategy.knob.values
        ]

        assert forwards == [32 / k for k in strategy.knob.values]

    @pytest.mark.parametrize(
        "knob",
        [
            '("tau", [0.9, 0.5])',
            '("tau", (0.9,))',
            '("tau", (0.5, 0.9, 0.7))',
            '("tau", (0.5, 0.5))',
            '("tau", (0.5, True))',
            "(1, (0.5, 0.9))",
            '"tau"',
        ],
    )
    def test_what_is_no_knob(self, knob: str, mine: Callable[[str], str]) -> None:
        """A declaration that is no parameter with numbers in order is refused where the strategy is loaded."""
        with pytest.raises(PluginError, match=r"Mine: knob: got .*expected Knob\(parameter, values\)"):
            load_strategy(mine(f"knob = {knob}"))

    @pytest.mark.parametrize(
        ("knob", "status", "words"),
        [
            ('knob: ClassVar[Knob] = Knob("tau", (1.0, 0.5))', "pass", ["tau at 1.0, 0.5"]),
            ('knob: ClassVar[Knob] = Knob("tua", (1.0, 0.5))', "fail", ["'tua'", "expected one of tau"]),
            ('knob: ClassVar[Knob] = Knob("tau", (0.5, 1.5))', "fail", ["1.5", "at most 1"]),
            ("", "info", ["none declared"]),
        ],
    )
    def test_check(
        self, knob: str, status: str, words: list[str], mine: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`check` says of a knob whether it can be swept, and what is wrong with one that cannot."""
        monkeypatch.setattr(kit, "examine", lambda strategy: [])  # the other rows take seconds
        (row,) = [row for row in kit.check(mine(knob)).checks if row.name == "knob"]

        assert row.status == status
        assert all(word in row.detail for word in words)

    def test_sources(self) -> None:
        """A knob is read from the source, also an inherited one; one that is computed needs the class itself."""
        base = '@dataclass\nclass A(Strategy):\n    knob: ClassVar[Knob] = Knob("t", (1, 2))\n    t: int = 1\n'
        heir = "@dataclass\nclass B(A):\n    u: int = 1\n"
        own = '@dataclass\nclass C(A):\n    knob: ClassVar[Knob] = Knob("u", (2.0, 1.0))\n    u: float = 1.0\n'
        found = [of_source(base + heir + own, name) for name in "ABC"]

        assert [outline and outline.knob for outline in found] == [("t", (1, 2)), ("t", (1, 2)), ("u", (2.0, 1.0))]
        assert of_source(base.replace("(1, 2)", "VALUES"), "A") is None
        assert of_source(base.replace("(1, 2)", "(2,)"), "A") is None
        assert of_object(type(load_strategy("fixed-step")[0])).knob == Knob("k", (1, 2, 4, 8, 16, 32))

    def test_list(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """`list` shows what a sweep would try."""
        assert call(monkeypatch, "list", "strategies", "--json") == 0
        listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["strategies"]}
        assert call(monkeypatch, "list", "strategies") == 0

        assert listed["factor"]["knob"] == {"parameter": "factor", "values": [0.7, 1.0, 1.3, 1.6, 1.9]}
        assert listed["oracle"]["knob"] is None
        assert "sweep factor over 0.7, 1.0, 1.3, 1.6, 1.9" in " ".join(capsys.readouterr().out.split())


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("0.5:1.0:0.1", ["0.5", "0.6", "0.7", "0.8", "0.9", "1"]),
            ("0.7:0.8:0.05", ["0.7", "0.75", "0.8"]),
            ("1:7:2", ["1", "3", "5", "7"]),
            ("-1:1:1", ["-1", "0", "1"]),
            ("1e-3:3e-3:1e-3", ["0.001", "0.002", "0.003"]),
            ("10:30:10", ["10", "20", "30"]),
            ("4:4:1", ["4"]),
        ],
    )
    def test_ranges(self, text: str, values: list[str]) -> None:
        """A range has both its ends, and the numbers that one would write, not what binary makes of them."""
        assert numbers(text) == values

    @pytest.mark.parametrize(
        "text",
        ["1:0.5:0.1", "0.5:1:0", "0.5:1:-0.1", "1:0.5:-0.1", "0.5:1", "0:1:0.3", "a:1:1", "0:inf:1", "nan:1:1", "::"],
    )
    def test_what_is_no_range(self, text: str) -> None:
        """A reversed range, no step, a step that misses the end, and what is no number are refused."""
        with pytest.raises(UsageError, match=r"^values: got '.*expected"):
            numbers(text)

    def test_too_many(self) -> None:
        """A slip of the pen does not make a million runs."""
        with pytest.raises(UsageError, match="1000001 values, expected at most 100"):
            numbers("0:1:0.000001")


class TestExpand:
    def test_declared(self) -> None:
        """Without values the declared ones are taken, with the baseline, and both are said."""
        sweep = expand(["factor"], [])

        assert sweep.strategies == ["fixed-step", *(f"factor:factor={f}" for f in (0.7, 1.0, 1.3, 1.6, 1.9))]
        assert "factor over 0.7, 1.0, 1.3, 1.6, 1.9" in sweep.notes[0]
        assert "added --strategy fixed-step" in sweep.notes[1]

    def test_given(self) -> None:
        """Values may be a range, a list or both; of several strategies each has its own, other parameters stay."""
        assert expand(["threshold"], ["tau=0.5:0.7:0.1,0.9"]).strategies == [
            "fixed-step",
            *(f"threshold:tau={tau}" for tau in ("0.5", "0.6", "0.7", "0.9")),
        ]
        several = expand(["local-leap:radius=2", "fixed-step"], ["local-leap.relaxed=0.5,0.6", "fixed-step.k=1,4"])
        assert several == (
            ["local-leap:radius=2,relaxed=0.5", "local-leap:radius=2,relaxed=0.6", "fixed-step:k=1", "fixed-step:k=4"],
            [],  # the baseline is k=1
        )
        assert expand(["fixed-step"], ["k=2,4"]).strategies[0] == "fixed-step"

    def test_of_a_file(self, mine: Callable[[str], str]) -> None:
        """A strategy in a file is swept like any other, by its name too."""
        name = mine('knob: ClassVar[Knob] = Knob("tau", (1.0, 0.5))')

        assert expand([name], []).strategies[1:] == [f"{name}:tau=1.0", f"{name}:tau=0.5"]
        assert expand([name, "factor"], [f"{name}.tau=0.4", "factor.factor=1"]).strategies[1] == f"{name}:tau=0.4"

    @pytest.mark.parametrize(
        ("strategies", "values", "words"),
        [
            ([], [], ["strategy: got none", "--strategy"]),
            (["treshold"], [], ["'treshold'", "did you mean 'threshold'"]),
            (["oracle"], [], ["'oracle'", "no --values", "nor a parameter"]),
            (["threshold"], ["ta=0.5"], ["'ta'", "expected one of tau"]),
            (["threshold"], ["tau="], ["'tau='", "KEY=START:STOP:STEP"]),
            (["threshold"], ["tau"], ["'tau'", "KEY=START:STOP:STEP"]),
            (["threshold"], ["=0.5"], ["'=0.5'", "KEY=START:STOP:STEP"]),
            (["threshold"], ["tau=0.5,,0.6"], ["KEY=START:STOP:STEP"]),
            (["threshold"], ["tau=0.9:0.5:0.1"], ["'0.9:0.5:0.1'", "smaller end first"]),
            (["threshold"], ["tau=0.5:0.9:0"], ["step above 0"]),
            (["threshold"], ["tau=0.5,1.5"], ["1.5", "[0, 1]"]),
            (["threshold"], ["tau=high"], ["'high'", "a finite number"]),
            (["fixed-step"], ["k=1:2:0.5"], ["'1.5'", "a whole number"]),
            (["threshold:tau=0.8"], ["tau=0.5"], ["threshold:tau=0.8", "leave it out"]),
            (["threshold", "factor"], ["tau=0.5"], ["threshold.tau=...", "factor.tau=..."]),
            (["threshold"], ["factor.factor=1"], ["'factor'", "expected one of threshold"]),
            (["threshold"], ["tau=0.5", "tau=0.6"], ["one knob for threshold"]),
        ],
    )
    def test_wrong_requests(self, strategies: list[str], values: list[str], words: list[str]) -> None:
        """What cannot be meant is refused with what was got and what would do."""
        with pytest.raises(UsageError) as failure:
            expand(strategies, values)

        assert all(word in str(failure.value) for word in words), failure.value

    def test_no_knob(self, mine: Callable[[str], str]) -> None:
        """A strategy without a knob is swept by a parameter of one's choice, and the error says which there are."""
        name = mine("")
        with pytest.raises(UsageError, match="declares no knob; expected --values with one of its parameters: tau"):
            expand([name], [])
        assert expand([name], ["tau=0.5"]).strategies[1:] == [f"{name}:tau=0.5"]

    def test_a_plugin_with_a_wrong_knob(self, mine: Callable[[str], str]) -> None:
        """A knob that its own strategy refuses is the plugin's fault, and --values goes without it."""
        name = mine('knob: ClassVar[Knob] = Knob("tau", (0.5, 1.5))')
        with pytest.raises(PluginError, match=r"its knob: got 1.5 among the values"):
            expand([name], [])
        assert expand([name], ["tau=0.5"]).strategies[1:] == [f"{name}:tau=0.5"]


class TestCommand:
    def test_sweep_and_repeat(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """A sweep decodes values and baseline, and shows board, figures and plots; repeated, it decodes nothing."""
        monkeypatch.setenv("COLUMNS", "80")
        words = ["sweep", "--strategy", "threshold", "--values", "tau=0.5,0.9", *SMALL, "--output", tmp_path / "runs"]
        assert call(monkeypatch, *words, "--plot", tmp_path / "curves.svg") == 0
        shown, before = capsys.readouterr(), content(tmp_path / "runs")
        assert call(monkeypatch, *words) == 0

        assert "added --strategy fixed-step" in shown.err
        assert "accuracy (%) over TPS" in shown.out and "accuracy (%) over TPF" in shown.out
        assert "threshold (tau)" in shown.out
        assert (tmp_path / "curves.svg").read_text().count("threshold (tau)") == 2  # a name in each panel
        runs = {run.manifest.strategy.spec: run for run in load_runs(tmp_path / "runs")}
        assert set(runs) == {"fixed-step", "threshold", "threshold:tau=0.5"}
        assert {len(run.samples) for run in runs.values()} == {3}
        assert runs["fixed-step"].manifest.command.startswith("l2pd-bench sweep --strategy threshold --values")
        lines = {name: data for name, data in before.items() if name.endswith("samples.jsonl")}
        assert {n: d for n, d in content(tmp_path / "runs").items() if n.endswith("samples.jsonl")} == lines

    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            (["--strategy", "threshold"], "task: got none"),
            (["--strategy", "threshold", "--values", "tau=2", *SMALL], "2.0"),
            (["--strategy", "threshold", *SMALL, "--plot", "curves.pdf"], "curves.pdf"),
            (["--strategy", "threshold", *SMALL, "--plot", "no/folder/curves.svg"], "no/folder"),
            (["--strategy", "threshold", *SMALL, "--limit", "0"], "limit: got 0"),
        ],
    )
    def test_wrong_use(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        words: list[str],
        wanted: str,
    ) -> None:
        """A wrong request is one line and exit code 2, before anything is decoded or written."""
        monkeypatch.chdir(tmp_path)

        assert call(monkeypatch, "sweep", *words) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ") and shown.count("\n") == 1 and wanted in shown
        assert not list(tmp_path.iterdir())


def test_no_torch() -> None:
    """The pure functions import nothing but the standard library."""
    assert "l2pd_bench.pareto" in sys.modules
    source = Path(sys.modules["l2pd_bench.pareto"].__file__ or "").read_text("utf-8")
    lines = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert {line.split()[1].partition(".")[0] for line in lines} <= {"__future__", *sys.stdlib_module_names}
