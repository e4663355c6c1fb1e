"""`compare`: two runs of one setting, sample by sample; of unequal settings, what differs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import FAST, FIXED, manifest, record, sample
from rich.console import Console
from scipy.stats import binomtest

from l2pd_bench import cli
from l2pd_bench.records import Run
from l2pd_bench.report.comparison import compare
from l2pd_bench.report.comparison_text import print_comparison


def pair(root: Path, *, count: int = 40, second: dict[str, Any] | None = None, **setting: Any) -> tuple[Run, Run]:
    """Two runs: the second four times as fast and less often right, in `setting`."""
    first = record(root, manifest(FIXED, planned=count), [sample(i, accuracy=0.9) for i in range(count)])
    samples = [sample(i, speed=4.0, accuracy=0.6, **(second or {})) for i in range(count)]
    return first, record(root, manifest(FAST, planned=count, **setting), samples)


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Run `l2pd-bench compare` with these words; its exit code."""
    monkeypatch.setattr("sys.argv", ["l2pd-bench", "compare", *map(str, words)])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


def text(first: Run, second: Run) -> str:
    """What the terminal shows."""
    console = Console(width=120, file=io.StringIO(), color_system=None)
    print_comparison(compare(first, second), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestEqualSettings:
    def test_numbers(self, tmp_path: Path) -> None:
        """Speedup, difference, p and agreement are those of the samples, recomputed."""
        first, second = pair(tmp_path)
        found = compare(first, second)
        ours, theirs = second.samples, first.samples
        only_second = sum(o.correct and not t.correct for o, t in zip(ours, theirs, strict=True))
        only_first = sum(t.correct and not o.correct for o, t in zip(ours, theirs, strict=True))

        assert found.differing == {} and found.speedup is not None and found.delta is not None
        ratio = sum(s.seconds.decode for s in theirs) / sum(s.seconds.decode for s in ours)
        assert found.speedup.value == pytest.approx(ratio)
        assert tuple(found.delta.compared) == (40, only_second, only_first)
        assert found.delta.points == pytest.approx(100 * (only_second - only_first) / 40)
        assert found.delta.p == pytest.approx(binomtest(only_second, only_second + only_first).pvalue)
        assert found.agreement_share == sum(o.text == t.text for o, t in zip(ours, theirs, strict=True)) / 40
        assert found.verdict is not None and found.verdict.speed == "faster"

    def test_the_other_way_round(self, tmp_path: Path) -> None:
        """Exchanged, the speedup is its inverse and the difference its negative."""
        first, second = pair(tmp_path)
        one, other = compare(first, second), compare(second, first)
        assert one.speedup and other.speedup and one.delta and other.delta

        assert one.speedup.value == pytest.approx(1 / other.speedup.value)
        assert one.delta.points == -other.delta.points
        assert other.verdict is not None and other.verdict.text.startswith("slower")

    def test_shown(self, tmp_path: Path) -> None:
        """The terminal shows both columns, and the second beside the first in words."""
        shown = text(*pair(tmp_path))

        assert f"A: {FIXED}" in shown and f"B: {FAST}" in shown
        assert "B beside A: faster" in shown and "McNemar's p" in shown and "NOT COMPARABLE" not in shown

    def test_json(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """--json holds the same numbers as computed."""
        first, second = pair(tmp_path)
        assert command(monkeypatch, first.folder, second.folder, "--json", "--margin", 5) == 0
        told, found = json.loads(capsys.readouterr().out), compare(first, second, 5.0)

        assert found.speedup is not None and found.verdict is not None
        assert told["comparable"] is True and told["speedup"]["value"] == found.speedup.value
        assert told["verdict"]["text"] == found.verdict.text
        assert [run["strategy"] for run in told["runs"]] == [FIXED, FAST]

    def test_what_is_missing(self, tmp_path: Path) -> None:
        """No common item, other processes, errors and a run that is not graded are said."""
        first, second = pair(tmp_path)
        others = tuple(replace(s, doc_id=f"other/{i}") for i, s in enumerate(second.samples))
        apart = replace(second.manifest.segments[0], session="another")
        bad = (replace(second.samples[0], status="error"), *second.samples[1:])

        assert "no item in common" in text(first, replace(second, samples=others))
        assert "no speedup: nothing was timed in the same process" in text(
            first, replace(second, manifest=replace(second.manifest, segments=[apart]))
        )
        assert "is INVALID: 1 of 40 samples ended in an error" in text(first, replace(second, samples=bad))
        assert "compared over the 30 items they share, of 40 and 30" in text(
            first, replace(second, samples=second.samples[:30])
        )

    def test_itself(self, tmp_path: Path) -> None:
        """A run beside itself differs in nothing."""
        first, _ = pair(tmp_path)
        found = compare(first, first)
        assert found.agreement_share == 1.0 and found.speedup is not None and found.speedup.value == 1.0

    def test_hostile_names(self, tmp_path: Path) -> None:
        """Markup and control sequences in a strategy's name are shown as text."""
        first, second = pair(tmp_path)
        name = "[red]x[/red]\x1b[31m"
        shown = text(first, replace(second, manifest=replace(second.manifest, strategy=replace(
            second.manifest.strategy, spec=name))))  # fmt: skip
        assert "[red]x[/red]?[31m" in shown and "\x1b" not in shown


class TestUnequalSettings:
    def test_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Every setting that differs is named with both values, and nothing is compared."""
        first, second = pair(tmp_path, cache="dual", gen_length=256)

        assert command(monkeypatch, first.folder, second.folder) == 2
        told = capsys.readouterr()
        assert "gen_length: 128 | 256; cache: none | dual" in told.err and "--anyway" in told.err
        assert told.out == ""

    def test_anyway(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """--anyway shows them side by side, marked, and judges nothing."""
        first, second = pair(tmp_path, cache="dual")

        assert command(monkeypatch, first.folder, second.folder, "--anyway") == 0
        shown = capsys.readouterr().out
        assert shown.startswith("NOT COMPARABLE") and "dual" in shown
        assert "beside A" not in shown and "speedup" not in shown and "McNemar" not in shown

    def test_json(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """--json --anyway says that they are not comparable, and holds no difference."""
        first, second = pair(tmp_path, seed=7)
        assert command(monkeypatch, first.folder, second.folder, "--anyway", "--json") == 0
        told = json.loads(capsys.readouterr().out)

        assert told["comparable"] is False and told["differing_settings"] == {"seed": [0, 7]}
        assert told["speedup"] is told["delta"] is told["verdict"] is told["agreement_share"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "nowhere"), "no such folder"),
        ((".", "."), "with 2 runs, expected one; name its folder: "),
        (("a", "a", "--margin", "0"), "margin: got 0, expected points of accuracy"),
        (("a", "a", "--margin", "101"), "margin: got 101"),
    ],
)
def test_wrong_requests(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    """What is no run, or no margin, is refused in a line."""
    first, _ = pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("a").symlink_to(first.folder)

    assert command(monkeypatch, *words) == 2
    assert said in capsys.readouterr().err
