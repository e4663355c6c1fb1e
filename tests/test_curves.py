"""What the rows of a section are together: frontier, curves and their figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import manifest, one_section, record, rendered, sample
from sweep_factory import CURVE, swept

from l2pd_bench.report import RENDERERS, make_board
from l2pd_bench.report.board import Row
from l2pd_bench.report.frontier import make_frontier
from l2pd_bench.schema import UNGRADED


class TestFrontier:
    def test_curve(self, tmp_path: Path) -> None:
        """Rows that differ in one number make a curve, slowest first; its figures are those of its rows."""
        section = one_section(*swept(tmp_path, CURVE))
        assert section.frontier is not None
        (curve,) = section.frontier.curves
        row = {row.spec: row for row in section.rows}

        def at_speed(spec: str) -> tuple[float, float]:
            assert row[spec].tpf is not None and row[spec].accuracy is not None
            return row[spec].tpf or 0, row[spec].accuracy or 0

        assert (curve.name, curve.knob, curve.y_max) == ("rule", "x", 90.0)
        assert [r.spec for r in curve.rows] == ["rule:x=2", "rule:x=4", "rule:x=8", "rule:x=16"]
        (a, _), (b, _), (c, _) = (at_speed(spec) for spec in ("fixed-step", "rule:x=2", "rule:x=4"))
        weighted = 88 * 2.718281828459045 ** (-3 * (1 - 88 / 90))  # 80 and 40 are more than 5 points below 90
        assert curve.aup_tpf == pytest.approx(90 * b + (c - b) * (90 + weighted) / 2)
        assert a < b < c
        eight = row["rule:x=8"].tpf
        assert dict(curve.pbx) == {90: c, 80: eight, 70: eight, 60: eight}
        slow, fast = row["rule:x=2"].speedup, row["rule:x=4"].speedup
        assert slow and fast and curve.iso_speedup == pytest.approx(slow.value)
        assert [r.spec for r in section.frontier.by_tpf] == ["rule:x=16", "rule:x=8", "rule:x=4", "rule:x=2"]
        assert section.frontier.by_tps == section.frontier.by_tpf

    def test_begins_at_the_baseline(self, tmp_path: Path) -> None:
        """A rule tried at bad values only is measured from the baseline, not from its own first point."""
        section = one_section(*swept(tmp_path, {"fixed-step": 45, "rule:x=8": 30, "rule:x=9": 30}))
        assert section.frontier is not None
        (curve,) = section.frontier.curves
        base = next(row for row in section.rows if row.is_baseline)

        assert curve.aup_tpf == pytest.approx((base.tpf or 0) * 90)
        assert curve.iso_speedup is None
        assert dict(curve.pbx)[70] is None and dict(curve.pbx)[60] == curve.rows[-1].tpf

    def test_slower_than_the_baseline(self, tmp_path: Path) -> None:
        """A value that is no faster than the baseline changes no area, however good it is."""
        few = {"fixed-step": 40, "rule:x=2": 40, "rule:x=4": 39}
        areas = []
        for name, accuracies in (("few", few), ("more", {**few, "rule:x=0.5": 50})):
            found = one_section(*swept(tmp_path / name, accuracies)).frontier
            assert found is not None
            areas.append(found.curves[0].aup_tpf)

        assert areas[0] == areas[1]

    def test_slowest_first(self, tmp_path: Path) -> None:
        """A knob that is slower the higher it is set has its highest value first."""
        runs = swept(tmp_path, {"fixed-step": 45})
        for tau, speed in ((0.5, 8.0), (0.7, 4.0), (0.9, 2.0)):
            samples = [sample(i, speed=speed) for i in range(50)]
            runs.append(record(tmp_path, manifest(f"rule:tau={tau}", planned=50), samples))
        found = one_section(*runs).frontier
        assert found is not None

        assert [row.spec for row in found.curves[0].rows] == ["rule:tau=0.9", "rule:tau=0.7", "rule:tau=0.5"]

    def test_another_parameter_makes_another_curve(self, tmp_path: Path) -> None:
        """The knob is the number that makes the longest family; rows that differ in more stand on other curves."""
        names = ["rule:x=2,y=1", "rule:x=4,y=1", "rule:x=8,y=1", "rule:x=2,y=5", "rule:x=4,y=5", "rule:x=2,z=text"]
        section = one_section(*swept(tmp_path, {"fixed-step": 45, **dict.fromkeys(names, 40)}))
        assert section.frontier is not None

        told = [(c.name, c.knob, [r.spec for r in c.rows]) for c in section.frontier.curves]
        assert told == [("rule:y=1", "x", names[:3]), ("rule:y=5", "x", names[3:5])]

    @pytest.mark.parametrize("lost", ["baseline", "grading", "all but one", "everything but a half"])
    def test_what_is_missing(self, tmp_path: Path, lost: str) -> None:
        """Without a baseline there is a frontier but no curve; without accuracy or a second finished row, neither."""
        runs = swept(tmp_path, CURVE)
        if lost == "baseline":
            runs = runs[1:]
        if lost == "grading":
            runs = swept(tmp_path / "ungraded", CURVE, grading=UNGRADED)
        if lost == "all but one":
            runs = runs[:1]
        if lost == "everything but a half":
            runs = [replace(run, manifest=replace(run.manifest, status="interrupted")) for run in runs]
        board = make_board(runs)
        found = board.sections[0].frontier

        if lost == "baseline":
            assert found is not None and found.curves == () and len(found.by_tpf) == 4
        else:
            assert found is None
        assert rendered(board, 80)
        assert all(render(board) for render in RENDERERS.values())

    def test_who_is_left_out(self, tmp_path: Path) -> None:
        """Rows over fewer items, unfinished ones, oracles and INVALID ones are on no frontier."""
        runs = swept(tmp_path, {**CURVE, "oracle": 50})
        runs += swept(tmp_path, {"few:x=3": 10}, count=10)
        runs.append(record(tmp_path, manifest("half:x=3", planned=50), [sample(0, accuracy=1.0)], finished=False))
        section = one_section(*runs)
        told = [replace(row, invalid=("drift",) if row.spec == "rule:x=4" else ()) for row in section.rows]
        found = make_frontier(told)
        assert found is not None
        (curve,) = found.curves

        assert {row.spec for row in found.by_tpf} == {"rule:x=2", "rule:x=8", "rule:x=16"}
        assert [row.spec for row in curve.rows] == ["rule:x=2", "rule:x=4", "rule:x=8", "rule:x=16"]
        assert dict(curve.pbx)[90] == curve.rows[0].tpf  # that of x=4 is not to be trusted

    def test_a_baseline_that_is_invalid(self, tmp_path: Path) -> None:
        """Figures that are measured against an INVALID baseline are not told; the curve is."""
        rows: list[Row] = [
            replace(row, invalid=("drift",) if row.is_baseline else ())
            for row in one_section(*swept(tmp_path, CURVE)).rows
        ]
        found = make_frontier(rows)
        assert found is not None
        (curve,) = found.curves

        assert len(curve.rows) == 4 and curve.y_max == 90.0
        assert (curve.aup_tpf, curve.aup_tps, curve.iso_speedup) == (None, None, None)
        assert {value for _, value in curve.pbx} == {None}

    def test_machines(self, tmp_path: Path) -> None:
        """Rows of different machines have a frontier by TPF, but none by TPS, and no AUP by it."""
        runs = swept(tmp_path, CURVE)
        runs[0] = replace(runs[0], manifest=replace(runs[0].manifest, environment={"cores": 99}))
        found = one_section(*runs).frontier
        assert found is not None

        assert found.by_tps == () and len(found.by_tpf) == 4
        assert found.curves[0].aup_tps is None and found.curves[0].aup_tpf is not None

    def test_told_everywhere(self, tmp_path: Path) -> None:
        """Terminal, Markdown and JSON tell the frontier and every figure of a curve, and the legend explains them."""
        board = make_board(swept(tmp_path, CURVE))
        (curve,) = board.sections[0].frontier.curves  # type: ignore[union-attr]
        texts = [f"{curve.aup_tpf:.1f}", f"{curve.aup_tps:.1f}", f"{curve.iso_speedup:.2f}x", "90.0"]
        texts += [f"{speed:.2f}" for _, speed in curve.pbx]
        shown = {"rich": rendered(board, 80), "markdown": RENDERERS["markdown"](board)}
        for text in shown.values():
            part = text[text.index("Pareto by TPS") :]
            assert all(word in part for word in [*texts, "2, 4, 8, 16", "rule:x=16"])
            legend = " ".join(part.split())
            assert all(
                word in legend for word in ("accuracy of fixed-step in percent", "(d3LLM, arXiv", "AUP/s", "PBx")
            )
        assert max(map(len, shown["rich"].splitlines())) <= 80
        (told,) = json.loads(RENDERERS["json"](board))["frontiers"]
        assert told["by_tpf"] == ["rule:x=16", "rule:x=8", "rule:x=4", "rule:x=2"]
        assert told["curves"][0]["aup_tpf"] == curve.aup_tpf
        assert told["curves"][0]["pb90_tpf"] == dict(curve.pbx)[90]
