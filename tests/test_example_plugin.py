"""A stranger's package: installed by pip, and found, checked and run through the door that everybody uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import test_cli
from builder import skip_without_builder

EXAMPLE = Path(__file__).parent / "example_plugin"
PROGRAM = str(Path(sys.executable).with_name("l2pd-bench"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it."""
    skip_without_builder()
    folder = tmp_path_factory.mktemp("example")
    # From a copy: a build leaves files behind.
    source = shutil.copytree(
        EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg*")
    )
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Done]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Runs `l2pd-bench` in an empty folder of this process, with folders of packages that are forgotten afterwards."""
    before = set(sys.modules)

    def run(*words: str, path: list[Path]) -> Done:
        with pytest.MonkeyPatch.context() as patch:
            for folder in reversed(path):
                patch.syspath_prepend(folder)
            code = test_cli.call(monkeypatch, *words)
        return Done(code, *capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    yield run
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("l2pd_peaks", "half_done"):
            del sys.modules[name]


def listed(done: Done) -> dict[str, list[dict[str, Any]]]:
    """What `list --json` said, by kind."""
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def distribution(folder: Path, name: str, entry_points: str, module: str = "") -> Path:
    """A folder with an installed distribution of that name, and perhaps a module."""
    info = folder / f"{name.replace('-', '_')}-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if module:
        (folder / f"{name.replace('-', '_')}.py").write_text(module)
    return folder


def test_is_listed(site: Path, call: Call) -> None:
    """The listing names the package's strategy, with its parameters and origin, and its task."""
    found = listed(call("list", "--json", path=[site]))

    (peaks,) = [row for row in found["strategies"] if row["name"] == "peaks"]
    assert (peaks["distribution"], peaks["version"], peaks["error"]) == ("l2pd-peaks", "0.1.0", None)
    assert peaks["summary"].startswith("Commit every candidate")
    assert [p["name"] for p in peaks["parameters"]] == ["tau", "reach"]
    assert [row["distribution"] for row in found["tasks"] if row["name"] == "anagram"] == ["l2pd-peaks"]


def test_passes_the_check(site: Path, call: Call) -> None:
    """Every check passes, without a warning."""
    done = call("check", "peaks", "--json", path=[site])
    report = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in report["checks"]} == {"pass", "info"}
    assert "l2pd-peaks 0.1.0" in report["checks"][0]["detail"]


def test_runs(site: Path, tmp_path: Path) -> None:
    """In a process of its own, strategy and task make rows on the board, and the records say whose code ran."""
    words = ["--strategy", "fixed-step", "--strategy", "peaks:tau=0.4", "--model", "analytic", "--task", "anagram"]
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}
    done = subprocess.run(
        [PROGRAM, "run", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "peaks:tau=0.4" in done.stdout
    (folder,) = (tmp_path / "runs" / "anagram").glob("peaks-*")
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["planned"]) == ("finished", 6)
    strategy = record["strategy"]
    assert (strategy["distribution"], strategy["version"]) == ("l2pd-peaks", "0.1.0")
    assert strategy["params"] == {"tau": 0.4, "reach": 1}


def test_a_name_of_two_distributions(site: Path, tmp_path: Path, call: Call) -> None:
    """A name that two packages register is refused with both named; the rest of either still works."""
    points = "[l2pd_bench.strategies]\npeaks = l2pd_peaks.strategy:Peaks\n"
    twin = distribution(tmp_path / "twin", "other-peaks", points)
    done = call("check", "peaks", path=[site, twin])
    found = listed(call("list", "--json", path=[site, twin]))

    assert done.returncode == 1
    for text in (done.stdout, *(row["error"] for row in found["strategies"] if row["name"] == "peaks")):
        flat = " ".join(text.split())
        assert "got it from l2pd-peaks (l2pd_peaks.strategy:Peaks) and other-peaks (" in flat
        assert "uninstall the other" in flat
    assert [row["error"] for row in found["tasks"] if row["name"] == "anagram"] == [None]


def test_a_broken_plugin_stops_nothing_else(site: Path, tmp_path: Path, call: Call) -> None:
    """A plugin that cannot be imported is listed with its error; it hides no other, and no run minds it."""
    points = "[l2pd_bench.strategies]\nhalf = half_done:Half\n"
    broken = distribution(tmp_path / "broken", "half-done", points, "import no_such_library\n")
    found = listed(call("list", "--json", path=[site, broken]))
    words = ["--strategy", "peaks", "--model", "analytic", "--task", "anagram", "--limit", "1"]
    done = call("run", *words, path=[site, broken])

    (half,) = [row for row in found["strategies"] if row["name"] == "half"]
    assert "half-done" in half["error"] and "No module named 'no_such_library'" in half["error"]
    assert [row["name"] for row in found["strategies"] if row["error"]] == ["half"]
    assert done.returncode == 0, done.stderr


def test_switched_off(site: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """L2PD_BENCH_PLUGINS=off hides what is not the harness's own, from the listing and from a run."""
    monkeypatch.setenv("L2PD_BENCH_PLUGINS", "off")
    found = listed(call("list", "--json", path=[site]))
    done = call("check", "peaks", path=[site])

    origins = {row["distribution"] for kind in ("strategies", "tasks", "models") for row in found[kind]}
    assert origins == {"l2pd-bench"}
    assert done.returncode == 2
    assert "strategy: got 'peaks', expected one of" in done.stderr
