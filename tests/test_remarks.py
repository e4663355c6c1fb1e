"""What a board says of itself: why a number is missing, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from record_factory import FAST, FIXED, manifest, one_section, record, rendered, rows, sample

from l2pd_bench.report import RENDERERS, Board, make_board
from l2pd_bench.report.columns import COLUMNS, best

FEW = "too few samples for a claim"


class TestRemarks:
    def test_no_baseline(self, tmp_path: Path) -> None:
        """Without a baseline the numbers are missing, and the command that adds it is shown."""
        section = one_section(record(tmp_path, manifest(FAST), [sample(0)]))

        assert (
            "add it: l2pd-bench run --strategy threshold:tau=0.9 --strategy fixed-step --restart" in section.remarks[0]
        )
        assert "no speedup vs reference; add --strategy fixed-step --cache none --eot decode" in section.remarks[1]

    def test_no_baseline_in_a_suite(self, tmp_path: Path) -> None:
        """Strategies named on the command line replace a suite's own: the command shown names them all."""
        what = replace(manifest(FAST), command="l2pd-bench run mini --restart")
        section = one_section(record(tmp_path, what, [sample(0)]))

        assert section.remarks[0].endswith(
            "l2pd-bench run mini --restart --strategy threshold:tau=0.9 --strategy fixed-step"
        )

    def test_complete(self, board: Board) -> None:
        """Where nothing is missing, nothing but advice is given."""
        for section in board.sections[1:]:
            (advice,) = section.remarks
            assert "lose at most 1 pt" in advice

    def test_other_process(self, tmp_path: Path) -> None:
        """Rows timed in different processes have no speedup, and it is said how to get it."""
        base = record(tmp_path, manifest(FIXED), [sample(0)], session="a")
        section = one_section(base, record(tmp_path, manifest(FAST), [sample(0)], session="b"))

        assert rows(section)[FAST].speedup is None
        assert rows(section)[FAST].delta is not None
        assert any("no speedup: no sample was timed in the same process as fixed-step" in r for r in section.remarks)
        assert any("--restart" in r for r in section.remarks)

    def test_unfinished(self, tmp_path: Path) -> None:
        """An unfinished run says how far it is and how to go on; a failed one also why."""
        running = record(tmp_path, manifest(FIXED, planned=9), [sample(0)], finished=False)
        failed = replace(running.manifest, status="failed", error="ValueError: tau\ntrace")

        assert one_section(running).remarks == (
            f"INVALID: {FEW}: 1, expected at least 10: fixed-step",
            "fixed-step: running, or killed: 1 of 9 samples; continue with: l2pd-bench run --strategy fixed-step",
        )
        assert (
            "fixed-step: failed (ValueError: tau): 1 of 9" in one_section(replace(running, manifest=failed)).remarks[1]
        )

    def test_other_samples(self, tmp_path: Path) -> None:
        """Rows over different samples say so."""
        base = record(tmp_path, manifest(FIXED), [sample(i) for i in range(5)])
        section = one_section(base, record(tmp_path, manifest(FAST), [sample(i) for i in range(3)]))

        assert section.remarks == (
            "rows are over different numbers of items; only those over the most can be the best",
            f"INVALID: {FEW}: 5, expected at least 10: {FIXED}",
            f"INVALID: {FEW}: 3, expected at least 10: {FAST}",
            f"{FAST}: compared with fixed-step over the 3 samples they share, of 3 here and 5 there",
        )

    def test_other_machine(self, tmp_path: Path) -> None:
        """Rows measured on different machines say so, and no row is the best in seconds."""
        elsewhere = replace(manifest(FAST), environment={"hostname": "elsewhere", "torch_threads": 64})
        runs = [record(tmp_path, m, [sample(i) for i in range(4)]) for m in (manifest(FIXED), elsewhere)]
        section = one_section(*runs)

        assert any("different machines" in remark for remark in section.remarks)
        assert [c.title for c in COLUMNS if c.in_seconds and best(section, c)] == []

    def test_notes(self, tmp_path: Path) -> None:
        """What the manifests note is said once, before anything else, in the terminal and in Markdown."""
        note = "mini was not trained for mini-math"
        runs = [record(tmp_path, replace(manifest(spec), notes=[note]), [sample(0)]) for spec in (FIXED, FAST)]
        board = make_board(runs)

        assert board.notes == (note,)
        assert rendered(board, 80).splitlines()[0] == f"Note: {note}"
        assert RENDERERS["markdown"](board).splitlines()[0] == f"> {note}"

    def test_torn_and_moved(self, tmp_path: Path) -> None:
        """A torn line that was left out is said, and so are samples from several machines."""
        run = record(tmp_path, manifest(FIXED), [sample(0)])
        segments = [replace(run.manifest.segments[0], index=i, hostname=name) for i, name in enumerate("ba")]
        section = one_section(replace(run, torn_bytes=7, manifest=replace(run.manifest, segments=segments)))

        assert section.remarks == (
            f"INVALID: {FEW}: 1, expected at least 10: fixed-step",
            "fixed-step: the last line of its samples is torn and was left out; continuing the run repairs it",
            "fixed-step: its samples were decoded on 2 machines (a, b)",
        )

    def test_several_baselines(self, tmp_path: Path) -> None:
        """With several baselines, each row is compared with the one timed in its own process, and that is said."""
        runs = []
        for session in "ab":
            for spec, speed in ((FIXED, 1.0), (FAST, 4.0)):
                runs.append(
                    record(
                        tmp_path / session, manifest(spec), [sample(i, speed=speed) for i in range(4)], session=session
                    )
                )
        section = one_section(*runs)

        assert section.remarks[0].startswith("several fixed-step runs: each row is compared with the one")
        for row in section.rows:
            assert row.baseline is not None
            assert row.baseline.manifest.segments[0].session == row.run.manifest.segments[0].session
            assert row.speedup is not None
