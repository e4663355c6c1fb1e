"""The command line as a person meets it: what is shown, what is refused, and how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from l2pd_bench import cli

ANALYTIC = ["--model", "analytic", "--task", "analytic-copy", "--limit", "2"]


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `l2pd-bench` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["l2pd-bench", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else int(bool(code))


WRONG = [
    (["--strategy", "treshold", *ANALYTIC], ["'treshold'", "fixed-step", "did you mean 'threshold'"]),
    (["--strategy", "threshold", "--task", "mini-mth"], ["'mini-mth'", "mini-code", "did you mean 'mini-math'"]),
    (["--strategy", "threshold", "--task", "mini-math", "--model", "minni"], ["'minni'", "analytic", "'mini'"]),
    (["--strategy", "threshold", *ANALYTIC, "--cache", "daul"], ["'daul'", "none, prefix", "did you mean 'dual'"]),
    (["--strategy", "threshold", *ANALYTIC, "--eot", "stopp"], ["'stopp'", "decode", "did you mean 'stop'"]),
    (["--strategy", "threshold:ta=0.9", *ANALYTIC], ["'ta'", "tau"]),
    (["--strategy", "threshold:tau=high", *ANALYTIC], ["'high'", "a finite number"]),
    (["--strategy", "threshold:tau=nan", *ANALYTIC], ["'nan'", "a finite number"]),
    (["--strategy", "threshold:tau=1.5", *ANALYTIC], ["1.5", "[0, 1]"]),
    (["--strategy", "fixed-step:k=2.5", *ANALYTIC], ["'2.5'", "a whole number"]),
    (["--strategy", "fixed-step:k=0", *ANALYTIC], ["got 0", "at least 1"]),
    (["--strategy", "fixed-step:order=size", *ANALYTIC], ["'size'", "confidence, margin"]),
    (["--strategy", "threshold", *ANALYTIC, "--gen-length", "100"], ["100", "32", "96 or 128"]),
    (["--strategy", "threshold", *ANALYTIC, "--gen-length", "0"], ["gen-length: got 0", "at least 1"]),
    (["--strategy", "threshold", *ANALYTIC, "--block-length", "-4"], ["block-length: got -4", "at least 1"]),
    (["--strategy", "threshold", *ANALYTIC, "--limit", "0"], ["limit: got 0", "at least 1"]),
    (["--strategy", "threshold", *ANALYTIC, "--batch-size", "-1"], ["batch-size: got -1", "at least 1"]),
    (["--strategy", "threshold", *ANALYTIC, "--temperature", "-1"], ["temperature: got -1.0", ">= 0"]),
    (["--strategy", "threshold", *ANALYTIC, "--seed", "-1"], ["seed: got -1", "at least 0"]),
    (["--strategy", "threshold", "--strategy", "threshold", *ANALYTIC], ["'threshold' twice"]),
    (["--strategy", "./nowhere.py:Mine", *ANALYTIC], ["no file './nowhere.py'"]),
    (["--strategy", "threshold"], ["task: got none", "mini"]),
    (["minni"], ["suite: got 'minni'", "did you mean 'mini'"]),
    (["--strategy", "threshold", *ANALYTIC, "--dtype", "int8"], ["'int8'", "float32"]),
    (["--strategy", "threshold", "--model", "mini:weight=x", "--task", "mini-math"], ["'weight'", "weights"]),
    (["--strategy", "threshold", "--model", "mini:weights=no.safetensors", "--task", "mini-math"], ["no.safetensors"]),
]


class TestWrongUse:
    @pytest.mark.parametrize(("words", "wanted"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
    def test_run(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        words: list[str],
        wanted: list[str],
    ) -> None:
        """A wrong request ends with exit code 2, one line that says what was got and allowed, and no records."""
        code = call(monkeypatch, "run", *words, "--output", tmp_path / "out")

        shown = capsys.readouterr().err
        assert code == 2
        assert shown.startswith("error: ") and shown.count("\n") == 1
        assert all(part in shown for part in wanted), shown
        assert not (tmp_path / "out").exists()

    def test_unknown_option(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """An unknown option is named, with the nearest known one, and exit code 2."""
        code = call(monkeypatch, "run", "--strateggy", "threshold")

        assert code == 2
        assert "--strategy" in capsys.readouterr().err

    @pytest.mark.parametrize("kind", ["missing", "empty", "file"])
    def test_report(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
    ) -> None:
        """A report of nothing says what was expected, with exit code 2."""
        path = tmp_path / "results"
        if kind == "empty":
            path.mkdir()
        if kind == "file":
            path.write_text("x")
        code = call(monkeypatch, "report", path)

        assert code == 2
        assert str(path) in capsys.readouterr().err

    def test_unwritable_output(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A results folder that cannot be made is named, and nothing is decoded."""
        code = call(monkeypatch, "run", "--strategy", "threshold", *ANALYTIC, "--output", "/proc/results")

        assert code == 1
        shown = capsys.readouterr().err
        assert "/proc/results" in shown and "--output" in shown


class TestListAndEnv:
    def test_json(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """The listing names every built-in, with the defaults of its parameters."""
        assert call(monkeypatch, "list", "--json") == 0

        shown = json.loads(capsys.readouterr().out)
        names = {kind: {row["name"] for row in rows} for kind, rows in shown.items()}
        assert {"fixed-step", "threshold", "factor"} <= names["strategies"]
        assert {"mini-math", "mini-code", "mini-list", "mini-line-random"} <= names["tasks"]
        assert {"mini", "analytic"} <= names["models"]
        assert names["caches"] == {"none", "prefix", "dual"}
        threshold = next(row for row in shown["strategies"] if row["name"] == "threshold")
        assert threshold["parameters"] == [{"name": "tau", "default": "0.9", "expected": "a finite number"}]
        assert not [row for rows in shown.values() for row in rows if row.get("error")]

    def test_env(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """`env` prints what records store."""
        import torch

        assert call(monkeypatch, "env") == 0
        assert json.loads(capsys.readouterr().out)["environment"]["packages"]["torch"] == torch.__version__

    @pytest.mark.parametrize(("words", "bound_s"), [(["--help"], 0.5), (["list"], 1.0)])
    def test_start_up(self, words: list[str], bound_s: float) -> None:
        """`--help` and `list` answer at once, by the processor's seconds, which others on the machine do not add to."""
        program = Path(sys.executable).with_name("l2pd-bench")
        began = os.times()
        subprocess.run([program, *words], check=True, capture_output=True)
        ended = os.times()
        taken_s = ended.children_user + ended.children_system - began.children_user - began.children_system
        assert taken_s < 2 * bound_s  # twice the goal, so that a slow machine does not fail the test
