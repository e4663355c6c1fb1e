"""The documentation is run: files are written, commands are called, in the order in which they stand."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from builder import skip_without_builder

from l2pd_bench import cli, conformance
from l2pd_bench.conformance import ORDER
from l2pd_bench.records import load_runs

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = (DOCS / "write-a-strategy.md").read_text("utf-8")
SMALL = ["--limit", "1", "--gen-length", "32"]  # what a test replaces in a run, for time


class Block(NamedTuple):
    """A fenced block: its language, and what is in it."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def call(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run one command of the program in this process; returns the exit code."""
    if words[1] in ("run", "sweep"):
        at = words.index("--limit")
        words = [*words[:at], *words[at + 2 :], *SMALL]
    monkeypatch.setattr(sys, "argv", words)
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def install(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install FOLDER`, into a folder of its own and without a network."""
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--target", "site-packages", folder]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(str(Path("site-packages").resolve()))
    importlib.invalidate_caches()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_tutorial(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A reader who writes the tutorial's files and calls its commands gets what it says, to the last row."""
    skip_without_builder()
    monkeypatch.setattr(conformance, "SPEED_ROUNDS", 1)  # seconds are no fact of a page
    shown = ""
    for block in blocks(TUTORIAL):
        if block.language in ("python", "toml"):
            name = block.text.splitlines()[0].removeprefix("# ")
            assert re.fullmatch(r"\w+\.(py|toml)", name), "the first line says the file's name"
            Path(name).write_text(block.text)
        elif block.language == "text":  # what the command before it showed
            assert without_figures(block.text) == without_figures(shown)
        else:
            assert block.language == "sh"
            for words in commands(block.text):
                if words[0] == "pip":
                    install(words[-1], monkeypatch)
                    continue
                assert words[0] == "l2pd-bench"
                assert call(words, monkeypatch) == 0, words
                shown = capsys.readouterr().out

    runs = load_runs(folder / "board")
    assert {run.manifest.strategy.distribution for run in runs} == {"l2pd-bench", "(file)", "l2pd-mine"}
    assert {run.manifest.status for run in runs} == {"finished"}
    (mine,) = [run for run in runs if run.manifest.strategy.spec == "mine:low=0.4"]
    assert mine.manifest.strategy.version == "0.1.0"
    assert (folder / "board.md").read_text().count("./mine.py:Mine:low=0.4") >= 4


def without_figures(text: str) -> list[str]:
    """A table's words; what depends on the machine or the model is left out."""
    text = re.sub(r"^(fills|caches|speed) .*\n(?: .*\n)*|^\d+ pass.*\n", "", text, flags=re.M)
    return text.split()


def test_tutorial_explains_every_check() -> None:
    """The tutorial's table has a line for each row that `check` prints, in its order."""
    named = [name for line in re.findall(r"^\| (`.*?) \|", TUTORIAL, re.M) for name in re.findall(r"`(\w+)`", line)]
    start = named.index("builds")

    assert named[start : start + len(ORDER) + 2] == ["builds", "knob", *ORDER]


def test_links_lead_somewhere() -> None:
    """Every relative link of a page names a file that exists."""
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
