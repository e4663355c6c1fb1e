"""The Python interface: the same runs, rows and numbers as the command line's."""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.main import get_command

import l2pd_bench
from l2pd_bench import api, cli
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.plan import Plan
from l2pd_bench.records import load_runs
from l2pd_bench.report import RENDERERS, make_board

SMALL: dict[str, Any] = {"model": "analytic", "task": "analytic-copy", "strategy": ["fixed-step", "threshold"]}
PAGE = (Path(__file__).parents[1] / "docs" / "python-api.md").read_text("utf-8")


def equal(a: object, b: object) -> bool:
    """Whether two cells are the same, nothing being the same as nothing."""
    return bool(pd.isna(a)) if b is None else a == b


class TestRun:
    def test_options_are_those_of_a_plan(self) -> None:
        """Every field of a plan but its matrices is a parameter, and no other but the suite and `restart`."""
        parameters = inspect.signature(l2pd_bench.run).parameters

        assert set(parameters) == {f.name for f in fields(Plan)} - {"matrices"} | {"suite", "restart"}
        assert {p.default for name, p in parameters.items() if name != "restart"} == {None}

    def test_rows(self, tmp_path: Path) -> None:
        """A run gives the rows of its own board; what else is in the folder does not come along."""
        l2pd_bench.run(**{**SMALL, "task": "analytic-shuffle"}, limit=2, output=tmp_path)
        board = l2pd_bench.run(**SMALL, gen_length=32, cache=("none", "dual"), limit=3, output=str(tmp_path))

        assert sorted(zip(board["strategy"], board["cache"], board["samples"], strict=True)) == [
            ("fixed-step", "dual", 3),
            ("fixed-step", "none", 3),
            ("threshold", "dual", 3),
            ("threshold", "none", 3),
        ]
        assert set(board["task"]) == {"analytic-copy"}
        assert (board["speedup"] > 0).all()
        assert len(l2pd_bench.load_results(tmp_path)) == 6

    def test_command_repeats_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command in the records, called, is the same run: it finds everything done."""
        output = tmp_path / "with space"
        options: dict[str, Any] = {
            "task": "mini-list",
            "strategy": "threshold",
            "ids": ["000", "003"],
            "gen_length": 32,
        }
        l2pd_bench.run(**options, batch_size=2, unsafe_code=True, output=output)
        before = {path: path.read_bytes() for path in output.rglob("*.json*")}
        (command,) = {run.manifest.command for run in load_runs(output)}
        assert "--ids 000 --ids 003" in command and command.endswith(
            f"--unsafe-code --output {shlex.quote(str(output))}"
        )
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            cli.main()

        assert not ended.value.code
        assert {path: path.read_bytes() for path in output.rglob("*.json*")} == before

    def test_command_has_all_options(self) -> None:
        """Whatever is given is written as an option that the command knows."""
        names = set(inspect.signature(l2pd_bench.run).parameters) - {"suite", "restart"}
        words = shlex.split(api._command(None, dict.fromkeys(names - {"fast"}, "x")))
        assert shlex.split(api._command(None, {"fast": False}))[2:] == ["--no-fast"]
        known = {text for option in get_command(cli.app).commands["run"].params for text in option.opts}

        assert words[:2] == ["l2pd-bench", "run"]
        assert set(words[2::2]) <= known
        assert len(set(words[2::2])) == len(names) - 1

    def test_suite(self, tmp_path: Path) -> None:
        """A suite's settings hold where no option is given."""
        board = l2pd_bench.run("mini", **SMALL, limit=1, eot="decode", output=tmp_path)

        assert set(board["cache"]) == {"none", "prefix", "dual"}
        assert {run.manifest.command for run in load_runs(tmp_path)} == {
            "l2pd-bench run mini --strategy fixed-step --strategy threshold --task analytic-copy --model analytic "
            f"--eot decode --limit 1 --output {tmp_path}"
        }

    def test_errors_are_raised(self, tmp_path: Path) -> None:
        """A wrong request and a strategy that fails are exceptions with the command's message, no exit."""
        with pytest.raises(UsageError, match="did you mean 'threshold'"):
            l2pd_bench.run(**{**SMALL, "strategy": "treshold"}, output=tmp_path)
        (tmp_path / "mine.py").write_text(
            "from dataclasses import dataclass\n"
            "from l2pd_bench.strategies.base import Strategy\n"
            "@dataclass(frozen=True)\n"
            "class Mine(Strategy):\n"
            "    name = 'mine'\n"
            "    def select(self, view):\n"
            "        raise KeyError('oops')\n"
        )
        with pytest.raises(BenchError, match=r"failed: .*KeyError: 'oops'"):
            l2pd_bench.run(**{**SMALL, "strategy": f"{tmp_path}/mine.py:Mine"}, limit=1, output=tmp_path / "out")


class TestLoad:
    def test_board(self, results: Path) -> None:
        """The table is the report's flat rows, names, order, numbers and all."""
        frame = l2pd_bench.load_results(results)
        document = json.loads(RENDERERS["json"](make_board(load_runs(results))))

        assert len(frame) == len(document["rows"]) == 7
        assert list(frame) == list(document["rows"][0])
        for (_, row), told in zip(frame.iterrows(), document["rows"], strict=True):
            assert [name for name in frame if not equal(row[name], told[name])] == []
        text = csv.DictReader(io.StringIO(RENDERERS["csv"](make_board(load_runs(results)))))
        assert [row["run_id"] for row in text] == list(frame["run_id"])

    def test_types_do_not_depend_on_the_records(self, results: Path, tmp_path: Path) -> None:
        """A column has one type, whether or not anything is known; text, counts and flags are what they are."""
        full = l2pd_bench.load_results(results)
        l2pd_bench.run(**{**SMALL, "strategy": "threshold"}, limit=1, output=tmp_path)
        bare = l2pd_bench.load_results(tmp_path)

        assert bare["speedup"].isna().all()
        assert bare["verdict"].isna().all()
        assert dict(full.dtypes) == dict(bare.dtypes)
        assert {str(kind) for kind in full.dtypes} == {"string", "Int64", "float64", "boolean"}
        for name in ("samples", "delta_pairs", "few_shot"):
            assert str(full[name].dtype) == "Int64"
        assert str(full["valid"].dtype) == "boolean"

    def test_samples(self, results: Path) -> None:
        """One row per recorded line with its numbers, and beside it whose run it is and under which setting."""
        frame = l2pd_bench.load_results(results, samples=True)
        lines = {}
        for path in results.rglob("samples.jsonl"):
            run = json.loads((path.parent / "run.json").read_text())
            for line in path.read_text().splitlines():
                sample = json.loads(line)
                lines[run["run_id"], sample["doc_id"]] = (run, sample)

        assert len(frame) == len(lines) == 7 * 40
        for _, row in frame.iterrows():
            run, sample = lines[row["run_id"], row["doc_id"]]
            assert row["seconds_decode"] == sample["seconds"]["decode"]
            assert (row["tokens_net"], row["nfe_full"]) == (sample["tokens"]["net"], sample["nfe"]["full"])
            assert (row["text"], row["correct"], row["output_ids"]) == tuple(
                sample[name] for name in ("text", "correct", "output_ids")
            )
            assert row["session"] == run["segments"][sample["segment"]]["session"]
            assert (row["strategy"], row["cache"]) == (run["strategy"]["spec"], run["protocol"]["cache"])

    def test_nothing_there(self, tmp_path: Path) -> None:
        """A folder without records is a UsageError that says so."""
        with pytest.raises(UsageError, match="without any run"):
            l2pd_bench.load_results(tmp_path)


class TestModule:
    def test_light(self) -> None:
        """Importing the package takes neither torch nor pandas, nor does naming what it offers."""
        code = (
            "import sys, l2pd_bench; l2pd_bench.run; l2pd_bench.load_results\n"
            "assert not {'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules), 'heavy'\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_unknown_name(self) -> None:
        """A name that is not offered is an AttributeError, as of any module."""
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = l2pd_bench.nothing  # type: ignore[attr-defined]

    def test_all(self) -> None:
        """What the package says it offers is there."""
        assert [getattr(l2pd_bench, name) for name in sorted(l2pd_bench.__all__)] == [
            l2pd_bench.__version__,
            api.load_results,
            api.run,
        ]


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's code runs, block after block, in an empty folder, and shows tables."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M))
    names: dict[str, Any] = {}
    exec(compile(code.replace("limit=4", "limit=1, gen_length=32"), "python-api.md", "exec"), names)
    shown = capsys.readouterr().out

    assert len(names["board"]) == 4
    assert len(names["samples"]) == 4
    assert list(names["fastest"]["cache"].sort_values()) == ["dual", "none"]
    assert "threshold" in shown and "speedup_low" in shown
    assert math.isfinite(names["seconds"].to_numpy().sum())
    assert {run.manifest.segments[0].pid for run in load_runs(tmp_path / "runs")} == {os.getpid()}
