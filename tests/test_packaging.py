"""What is installed: every module and data file, entry points that work, and a quick command line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}
ENTRY_POINTS = [
    (group, name, value) for group, names in PROJECT["project"]["entry-points"].items() for name, value in names.items()
]
HEAVY = ("torch", "transformers", "evaluate", "lm_eval", "pandas", "scipy")


def source_folders() -> list[Path]:
    """The folders that code and its data live in."""
    tops = [ROOT / name for name in ("bench", "strategies", "tasks")]
    nested = [path for top in tops for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    return [*tops, *nested]


def test_every_folder_is_a_listed_package() -> None:
    """A folder that pyproject.toml forgets would be missing from the wheel without a word."""
    assert set(SETUPTOOLS["packages"]) == set(SETUPTOOLS["package-dir"])
    for folder in source_folders():
        name = folder.relative_to(ROOT).as_posix()
        assert (folder / "__init__.py").is_file(), f"{name} has no __init__.py; keep data beside the modules"
        assert name in FOLDERS, f"{name} is not in [tool.setuptools.package-dir]"


def test_every_data_file_is_covered() -> None:
    """Each file beside the modules is of a kind that package-data names."""
    patterns = SETUPTOOLS["package-data"]["*"]
    for folder in source_folders():
        for path in folder.iterdir():
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(fnmatch(path.name, p) for p in patterns), f"{path.relative_to(ROOT)} would not be installed"


@pytest.mark.parametrize(("group", "name", "value"), ENTRY_POINTS, ids=lambda part: part)
def test_entry_points(group: str, name: str, value: str) -> None:
    """Every registered name leads to something, which calls itself by that name."""
    module, _, attribute = value.partition(":")
    thing = getattr(importlib.import_module(module), attribute)
    if group in ("l2pd_bench.hosts", "lm_eval.models"):
        assert callable(thing)
    else:
        assert thing.name == name


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["list"], ["list", "strategies", "--json"], ["run", "--help"], ["report", "--help"]],
    ids=" ".join,
)
def test_quick_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """What needs no model starts without the libraries that take seconds to import."""
    code = (
        "import json, sys\n"
        "from l2pd_bench.cli import main\n"
        "status = 0\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    status = ended.code\n"
        f"print('\\n' + json.dumps([status or 0, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, "L2PD_BENCH_PLUGINS": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    """A wheel has every module and data file under l2pd_bench, and no folder named bench, strategies or tasks."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("building a wheel needs pip, which is not installed here")
    if importlib.util.find_spec("setuptools") is None or int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("building a wheel without a network needs setuptools >= 77, which is not installed here")
    # In a copy: a build leaves files behind, and old ones would end up in the wheel.
    copy = tmp_path / "copy"
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "bench", "strategies", "tasks"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *build, str(copy)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        license_text = archive.read(f"{wheel.name.split('-py3')[0]}.dist-info/licenses/LICENSE")
    expected = {
        f"{FOLDERS[folder.relative_to(ROOT).as_posix()].replace('.', '/')}/{path.name}"
        for folder in source_folders()
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == expected
    assert b"Apache License" in license_text
