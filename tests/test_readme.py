"""What the README shows is what happens: its board, its commands, its strategy."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from l2pd_bench import cli
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.records import load_runs
from l2pd_bench.report import RENDERERS
from l2pd_bench.report.model import make_board

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)  # opening and closing fences in pairs
    return [text for named, text in fenced if named == language]


class TestBoard:
    def test_leaderboard_follows_from_records(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`results/LEADERBOARD.md` is what `report` makes of the committed records."""
        monkeypatch.chdir(ROOT)
        board = make_board(load_runs(Path("results")))

        assert (ROOT / "results/LEADERBOARD.md").read_text("utf-8") == RENDERERS["markdown"](board)

    def test_readme_shows_the_leaderboard(self) -> None:
        """Every line of the README's board stands in the leaderboard."""
        shown = re.search(r"<!-- board -->\n(.*?)<!-- /board -->", README, re.S)
        leaderboard = (ROOT / "results/LEADERBOARD.md").read_text("utf-8").splitlines()

        assert shown is not None
        rows = [line for line in shown.group(1).splitlines() if line.startswith("|")]
        assert len(rows) > 8
        assert [row for row in rows if row not in leaderboard] == []

    def test_size_of_the_model(self, mini: MiniHost) -> None:
        """The README's size of the embedded model is that of the shipped one."""
        count = sum(p.numel() for p in mini.model.parameters())
        assert f"transformer of {count / 1e6:.1f} million parameters" in README


class TestCommands:
    def test_ci_runs_the_test_command(self) -> None:
        """`.ci/run` installs and tests with the README's words."""
        command = next(block for block in blocks("") if "pytest" in block)
        steps = [step.strip() for step in command.split("&&")][2:]  # after the virtual environment

        assert steps == ['pip install -c constraints/cpu.txt -e ".[dev]"', "pytest -n auto"]
        ci = (ROOT / ".ci/run").read_text("utf-8").splitlines()
        assert all(step in ci for step in steps)

    def test_options_exist(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Every command and option that the README names is one that the program knows."""
        named = re.findall(r"^l2pd-bench (.*)", "\n".join(blocks("")).replace("\\\n", ""), re.M)
        assert len(named) >= 5
        for line in named:
            command, *words = shlex.split(line, comments=True)
            commands = [command, words[0]] if command in ("filter", "mini") else [command]
            monkeypatch.setattr(sys, "argv", ["l2pd-bench", *commands, "--help"])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            shown = capsys.readouterr().out
            assert ended.value.code == 0
            assert [w for w in words if w.startswith("--") and w not in shown] == []

    def test_strategy_in_15_lines(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """The README's strategy, in its file, gets its rows on the board by the README's command."""
        (code,) = blocks("python")
        command = next(block for block in blocks("") if "mine.py" in block)
        _, *words = shlex.split(command.replace("--limit 20", "--limit 1 --gen-length 32"))
        monkeypatch.chdir(tmp_path)
        Path("mine.py").write_text(code)
        monkeypatch.setattr(sys, "argv", ["l2pd-bench", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()

        assert ended.value.code == 0
        assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 15
        specs = {run.manifest.strategy.spec for run in load_runs(Path("runs"))}
        assert specs == {"fixed-step", "./mine.py:Mine", "./mine.py:Mine:tau=0.5"}
        assert "./mine.py:Mine" in capsys.readouterr().out
