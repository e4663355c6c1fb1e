"""Exports, read back with what each service itself reads with. Nothing here asks a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2pd_bench import cli, export_to
from l2pd_bench.errors import UsageError
from l2pd_bench.export_to import entries_of, export
from l2pd_bench.report import Board

PROGRAM = str(Path(sys.executable).with_name("l2pd-bench"))


def run_export(results: Path, service: str, folder: Path, **more: str) -> str:
    """`l2pd-bench export` in a process of its own, in an empty home; returns what it printed."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "TRACKIO", "HF_"))}
    env |= {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", **more}
    words = [PROGRAM, "export", str(results), "--to", service, "-o", str(folder), "--project", "mine"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


class TestEntries:
    def test_all_that_is_known(self, board: Board) -> None:
        """A row's configuration is its record's, its summary its flat row without the settings and what is unknown."""
        entries = entries_of(board)
        flat = export_to.flat_rows(board)
        rows = [row for section in board.sections for row in section.rows]

        assert len(entries) == len(rows) == len({entry.name for entry in entries}) == 7
        for entry, row, told in zip(entries, rows, flat, strict=True):
            manifest = row.run.manifest
            assert entry.name == str(row.run.folder.relative_to(row.run.folder.parents[1]))
            assert entry.config["protocol"] == manifest.protocol
            assert entry.config["strategy"]["params"] == manifest.strategy.params
            assert entry.config["environment"] == manifest.environment
            assert all(entry.summary[name] == told[name] for name in entry.summary)
            missing = {name for name, value in told.items() if value is None}
            assert set(entry.summary) == set(told) - set(manifest.protocol) - missing
            assert entry.flat_config["environment.packages.torch"] == "2.13.0"
        assert "speedup" not in entries[0].summary  # a row without its baseline

    def test_not_finite(self, board: Board) -> None:
        """What is no finite number is left out, not written as 0."""
        (section, *_) = board.sections
        row = replace(section.rows[0], tps=float("nan"), tpf=float("inf"), accuracy=None)
        (entry,) = entries_of(replace(board, sections=(replace(section, rows=(row,)),)))

        assert not {"tps", "tpf", "accuracy_percent"} & set(entry.summary)
        assert "tps_answer" in entry.numbers
        assert "strategy" not in entry.numbers and "deployable" not in entry.numbers

    def test_twice_the_same(self, board: Board) -> None:
        """A run that lies in two folders is two entries with names of their own."""
        (section, *_) = board.sections
        names = [e.name for e in entries_of(replace(board, sections=(replace(section, rows=section.rows * 2),)))]

        assert names[1] == f"{names[0]}-2"


class TestEvaluate:
    def test_as_evaluate_writes(self, board: Board, tmp_path: Path) -> None:
        """One file per row, named and keyed as by `evaluate.save`, with the row's numbers and the run's own stamps."""
        evaluate = pytest.importorskip("evaluate", reason="evaluate is not installed")
        theirs = Path(evaluate.save(tmp_path / "theirs", accuracy=1.0))
        told = export(board, "evaluate", tmp_path / "ours", "x")
        keys = {key for key in json.loads(theirs.read_text()) if key.startswith("_")}

        assert told.startswith("7 rows: ")
        for entry in entries_of(board):
            (path,) = (tmp_path / "ours" / entry.name).iterdir()
            content = json.loads(path.read_text())
            assert len(path.name) == len(theirs.name) and path.name.startswith("result-") and path.suffix == ".json"
            assert {key for key in content if key.startswith("_")} == keys
            assert {name: content[name] for name in entry.summary} == entry.summary
            assert content["protocol"] == entry.config["protocol"]
            assert content["_evaluate_version"] == evaluate.__version__
            assert content["_git_commit_hash"] is None


class TestTensorboard:
    def test_read_back(self, board: Board, tmp_path: Path) -> None:
        """TensorBoard's reader finds every number of every row as a scalar, exact ones in a text, and the settings."""
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        export(board, "tensorboard", tmp_path / "logs", "x")

        for entry in entries_of(board):
            events = EventAccumulator(str(tmp_path / "logs" / entry.name))
            events.Reload()
            scalars = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
            assert scalars == {name: [np.float32(value)] for name, value in entry.numbers.items()}
            (text,) = events.Tensors("row/text_summary")
            assert json.loads(text.tensor_proto.string_val[0]) == entry.summary
            hyper = str(events.SummaryMetadata("_hparams_/session_start_info"))
            assert "protocol.cache" in hyper and str(entry.config["protocol"]["cache"]) in hyper

    def test_folder_in_use(self, board: Board, tmp_path: Path) -> None:
        """A folder that is not empty is refused, as old events would stand among the new."""
        pytest.importorskip("tensorboard", reason="tensorboard is not installed")
        (tmp_path / "x").write_text("")
        with pytest.raises(UsageError, match="is not empty"):
            export(board, "tensorboard", tmp_path, "x")


class TestTrackio:
    def test_read_back(self, results: Path, board: Board, tmp_path: Path) -> None:
        """Trackio's storage gives back every row's numbers to the last digit, its settings, and the board's table."""
        pytest.importorskip("trackio", reason="trackio is not installed")
        folder = tmp_path / "kept"
        printed = run_export(results, "trackio", folder)
        code = (
            "import json; from trackio.sqlite_storage import SQLiteStorage as S\n"
            "print(json.dumps({r: [S.get_logs('mine', r), S.get_run_config('mine', r)] for r in S.get_runs('mine')}))"
        )
        env = {**os.environ, "TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        stored = json.loads(done.stdout)
        entries = entries_of(board)

        assert printed.splitlines() == [f"7 rows: project mine in {folder}; trackio show --project mine"]
        assert set(stored) == {entry.name for entry in entries} | {"board"}
        for entry in entries:
            (logged,), config = stored[entry.name]
            assert {name: logged[name] for name in entry.summary} == entry.summary
            assert set(logged) - {"step", "timestamp"} == set(entry.summary)
            assert {name: config[name] for name in entry.flat_config} == entry.flat_config
        (told,), _ = stored["board"]
        assert [row["run"] for row in told["board"]["_value"]] == [entry.name for entry in entries]
        assert [row["tps"] for row in told["board"]["_value"]] == [entry.summary["tps"] for entry in entries]


class TestWandb:
    def test_read_back(self, results: Path, board: Board, tmp_path: Path) -> None:
        """An offline run per row holds its settings and its numbers to the last digit; one more has the table."""
        pytest.importorskip("wandb", reason="wandb is not installed")
        printed = run_export(results, "wandb", tmp_path / "kept")
        stored: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for path in (tmp_path / "kept").rglob("run-*.wandb"):
            name, config, summary = "", {}, {}
            for record in wandb_records(path):
                if record.WhichOneof("record_type") == "run":
                    assert record.run.project == "mine"
                    name = record.run.display_name
                    config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                if record.WhichOneof("record_type") == "summary":
                    summary |= {i.key: json.loads(i.value_json) for i in record.summary.update if i.key}
            stored[name] = (config, summary)
        entries = entries_of(board)
        (table,) = [json.loads(p.read_text()) for p in (tmp_path / "kept").rglob("*.table.json")]

        assert "offline" in printed
        assert set(stored) == {entry.name for entry in entries} | {"board"}
        for entry in entries:
            config, summary = stored[entry.name]
            assert {name: config[name] for name in entry.config} == entry.config
            assert {name: summary.get(name) for name in entry.summary} == entry.summary
            assert {name for name in summary if not name.startswith("_")} == set(entry.summary)
        column = table["columns"].index("tps")
        assert [row[0] for row in table["data"]] == [entry.name for entry in entries]
        assert [row[column] for row in table["data"]] == [entry.summary["tps"] for entry in entries]


class TestWrongUse:
    @pytest.mark.parametrize("service", sorted(export_to.SERVICES))
    def test_package_is_missing(
        self,
        service: str,
        results: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Without its package a service is refused with the command that installs it, and nothing is written."""
        monkeypatch.setattr(export_to, "find_spec", lambda name: None)
        words = ["l2pd-bench", "export", str(results), "--to", service, "-o", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()

        assert ended.value.code == 2
        assert f"pip install {service}" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_output_is_a_file(self, board: Board, tmp_path: Path) -> None:
        """A file where a folder is wanted is refused."""
        (tmp_path / "x").write_text("")
        with pytest.raises(UsageError, match=r"\(a file\), expected a folder"):
            export(board, "evaluate", tmp_path / "x", "x")
