"""Verdicts and advice: what may be said of a row, and what may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import FAST, FIXED, ROUGH, manifest, one_section, record, rows, sample

from l2pd_bench import stats
from l2pd_bench.records import Run
from l2pd_bench.report import make_board
from l2pd_bench.verdict import Compared, judge

FASTER, SLOWER, EITHER = stats.Interval(1.1, 2.0), stats.Interval(0.5, 0.9), stats.Interval(0.9, 1.1)


class TestJudge:
    @pytest.mark.parametrize(
        ("compared", "p", "margin", "text"),
        [
            (Compared(500, 0, 0), 1.0, 1.0, "faster, no measurable loss (margin 1 pt)"),
            (Compared(500, 9, 0), 0.004, 1.0, "faster, no measurable loss (margin 1 pt)"),  # better is no loss
            (Compared(20, 0, 0), 1.0, 1.0, "faster, undecided: needs about 390 samples"),
            (Compared(20, 0, 0), 1.0, 17.0, "faster, no measurable loss (margin 17 pt)"),
            (Compared(200, 0, 8), 0.008, 1.0, "faster, lossy (-4.0 pt)"),
            (Compared(200, 0, 8), 0.06, 1.0, "faster, undecided: needs about 220 samples"),  # Holm says it is not shown
            (Compared(200, 0, 8), 0.008, 10.0, "faster, loss within 10 pt"),
        ],
    )
    def test_loss(self, compared: Compared, p: float, margin: float, text: str) -> None:
        """The words follow from the interval, the adjusted p and the margin."""
        assert judge(FASTER, compared, p, margin).text == text

    @pytest.mark.parametrize(
        ("interval", "word"),
        [(FASTER, "faster"), (SLOWER, "slower"), (EITHER, "speed undecided"), (None, "speed not measured")],
    )
    def test_speed(self, interval: stats.Interval | None, word: str) -> None:
        """Faster or slower is said only where the whole interval lies on one side of 1."""
        assert judge(interval, Compared(500, 0, 0), 1.0, 1.0).text == f"{word}, no measurable loss (margin 1 pt)"

    def test_nothing_known(self) -> None:
        """Without a common item nothing is said of the loss."""
        assert judge(FASTER, None, None, 1.0).text == "faster, loss not measured"

    def test_samples_decide(self) -> None:
        """With as many samples as the verdict asks for, it is no longer undecided."""
        needed = judge(FASTER, Compared(20, 0, 0), 1.0, 1.0).samples
        assert needed is not None and judge(FASTER, Compared(needed, 0, 0), 1.0, 1.0).loss == "none"


def three(root: Path, count: int, wrong: dict[str, int]) -> list[Run]:
    """Runs of three strategies, each faster than the one before; the first so many answers of each are wrong."""
    made = []
    for spec, speed in ((FIXED, 1.0), (FAST, 4.0), (ROUGH, 8.0)):
        samples = [
            sample(i, speed=speed, correct=i >= wrong[spec], score=float(i >= wrong[spec]), forced_commits=0)
            for i in range(count)
        ]
        made.append(record(root, manifest(spec, planned=count), samples))
    return made


class TestAdvice:
    @pytest.mark.parametrize(
        ("count", "wrong", "said"),
        [
            (500, {FIXED: 0, FAST: 0, ROUGH: 90}, f"to lose at most 1 pt, use {FAST}: 4."),
            (500, {FIXED: 0, FAST: 0, ROUGH: 0}, f"to lose at most 1 pt, use {ROUGH}: 8."),
            (500, {FIXED: 0, FAST: 0, ROUGH: 3}, "is faster yet (8.0x), but needs about"),
            (500, {FIXED: 0, FAST: 60, ROUGH: 90}, "use fixed-step: every faster strategy here seems to lose more"),
            (40, {FIXED: 0, FAST: 0, ROUGH: 20}, f"the fastest that may is {FAST} (4."),
        ],
    )
    def test_choice(self, tmp_path: Path, count: int, wrong: dict[str, int], said: str) -> None:
        """The fastest row whose loss is shown to be small is advised; else what may be, and what would tell."""
        assert said in one_section(*three(tmp_path, count, wrong)).remarks[0]

    @pytest.mark.parametrize("grading", ["none", "tests run"])
    def test_no_ground(self, tmp_path: Path, grading: str) -> None:
        """Without grading, or beside a baseline that is INVALID, nothing is advised."""
        runs = []
        for spec, speed in ((FIXED, 1.0), (FAST, 4.0)):
            samples = [sample(i, speed=speed, forced_commits=0) for i in range(500)]
            runs.append(record(tmp_path, manifest(spec, planned=500, grading=grading), samples))
        base = runs[0].manifest
        if grading != "none":
            segments = [replace(base.segments[0], foreign=["train (7)"])]
            runs[0] = replace(runs[0], manifest=replace(base, segments=segments))

        assert not any("to lose at most" in remark for remark in one_section(*runs).remarks)

    def test_margin(self, tmp_path: Path) -> None:
        """A wider margin lets a faster row in."""
        runs = three(tmp_path, 500, {FIXED: 0, FAST: 0, ROUGH: 20})

        for margin, choice in ((1.0, FAST), (8.0, ROUGH)):
            (section,) = make_board(runs, margin).sections
            assert f"to lose at most {margin:g} pt, use {choice}:" in section.remarks[0]

    def test_invalid_is_not_advised(self, tmp_path: Path) -> None:
        """A row that another program may have disturbed is not advised, however fast and right."""
        base, fast, _ = three(tmp_path, 500, {FIXED: 0, FAST: 0, ROUGH: 0})
        samples = [sample(i, speed=9.0, correct=True, score=1.0, forced_commits=0) for i in range(500)]
        dash = record(tmp_path, manifest("dash", planned=500), samples)
        segments = [replace(dash.manifest.segments[0], foreign=["train (7)"])]
        section = one_section(base, fast, replace(dash, manifest=replace(dash.manifest, segments=segments)))

        assert "use dash:" in one_section(base, fast, dash).remarks[0]
        assert f"use {FAST}:" in section.remarks[0]
        assert rows(section)["dash"].invalid == ("other programs computed on the device: train (7)",)
        assert [row.spec for row in section.rows][-1] == "dash"


def test_holm_over_the_section(tmp_path: Path) -> None:
    """The more rows are tested, the larger the p that a verdict goes by; the p shown is McNemar's own."""
    runs = three(tmp_path, 100, {FIXED: 0, FAST: 6, ROUGH: 0})
    alone, together = rows(one_section(*runs[:2]))[FAST], rows(one_section(*runs))[FAST]

    assert alone.delta is not None and together.delta is not None
    assert alone.delta.p == alone.delta.p_holm == together.delta.p == pytest.approx(2 * 0.5**6)
    assert together.delta.p_holm == pytest.approx(2 * (2 * 0.5**6))
    assert alone.verdict is not None and alone.verdict.loss == "lossy"
    assert together.verdict is not None and together.verdict.loss == "undecided"
