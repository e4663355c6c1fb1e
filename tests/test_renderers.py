"""What the terminal, Markdown, csv and JSON make of a board."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import FIXED, ROUGH, manifest, record, rendered, sample
from rich.console import Console

from l2pd_bench.report import RENDERERS, Board, make_board, print_board
from l2pd_bench.report.columns import COLUMNS, shown
from l2pd_bench.seal import run_id


class TestTerminal:
    @pytest.mark.parametrize(("width", "tables"), [(200, 1), (160, 2), (80, 3), (60, 5)])
    def test_width(self, board: Board, width: int, tables: int) -> None:
        """At 200 columns a section is one table, at 160 two; no line is too long and no number is cut."""
        text = rendered(board, width)
        section = text[text.index("mini-math: model mini, cache dual") :]
        tokens = set(text.split())

        assert max(map(len, text.splitlines())) <= width
        assert "\N{HORIZONTAL ELLIPSIS}" not in text
        rule = {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"}
        assert sum(set(line) == rule for line in section.splitlines()) == tables
        for told in board.sections:
            for row in told.rows:
                for column in COLUMNS:
                    words = column.text(row).split() if column.is_words else [column.text(row)]
                    assert all(tokens & {word, f"*{word}"} for word in words), column.title
                    assert set(column.detail(row).split()) <= tokens

    def test_mark_without_colour(self, board: Board) -> None:
        """The best value carries a mark that survives without colour; with colour it is bold too."""
        plain = rendered(board, 200)
        console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system="standard")
        print_board(board, console)
        assert isinstance(console.file, io.StringIO)

        assert "\x1b" not in plain
        line = next(line for line in plain.splitlines() if line.startswith(ROUGH))
        assert line.count("*") == 6  # TPS, speedup, vs ref, TPF, NFE, p50
        assert re.search(r"\x1b\[1;32m\*\d", console.file.getvalue())

    def test_legend(self, board: Board) -> None:
        """Every column is explained below the board, by one entry each."""
        text = rendered(board, 160)
        legend = text[text.rindex("\n\n") :].splitlines()

        for title in ("*", "strategy", *(column.title for column in COLUMNS)):
            assert sum(line.startswith(f"{title} ") for line in legend) == 1, title

    def test_hostile_text(self, tmp_path: Path) -> None:
        """Markup and control sequences in records are shown as text, not obeyed."""
        what = replace(manifest(FIXED), notes=["[red]x[/red] \x1b[31mred\x07"])
        text = rendered(make_board([record(tmp_path, what, [sample(0)])]), 80)

        assert text.splitlines()[0] == "Note: [red]x[/red] ?[31mred?"

    def test_long_spec(self, tmp_path: Path) -> None:
        """A long strategy name is folded, between its parameters where that suffices, and nothing of it is lost."""
        spec = "./plugins/a_rather_long_name_of_a_file.py:Class:alpha=0.25,beta=0.75"
        what = replace(manifest(ROUGH), strategy=replace(manifest(ROUGH).strategy, spec=spec))
        run = record(
            tmp_path, replace(what, run_id=run_id(what.protocol_hash, spec, what.strategy.code_hash)), [sample(0)]
        )
        text = rendered(make_board([run]), 80)

        assert max(map(len, text.splitlines())) <= 80
        folded = [line.split("  ")[0].strip() for line in text.splitlines()]
        assert "alpha=0.25,beta=0.75" in folded
        assert spec in "".join(folded)


class TestExports:
    def test_csv_and_json(self, board: Board) -> None:
        """Both hold one flat row per row of the board, in its order, with settings and unrounded numbers."""
        table = list(csv.DictReader(io.StringIO(RENDERERS["csv"](board))))
        document = json.loads(RENDERERS["json"](board))
        shown = [(section, row) for section in board.sections for row in section.rows]

        assert len(table) == len(document["rows"]) == len(shown) == 7
        for flat, exact, (section, row) in zip(table, document["rows"], shown, strict=True):
            assert list(flat) == list(exact)
            assert {k: exact[k] for k in section.protocol} == section.protocol
            assert (exact["strategy"], exact["folder"]) == (row.spec, str(row.run.folder))
            assert (exact["status"], exact["samples"], exact["planned"]) == ("finished", 40, 40)
            assert exact["tps"] == float(flat["tps"]) == row.tps
            assert exact["accuracy_percent"] == float(flat["accuracy_percent"]) == row.accuracy
            if row.speedup is None:
                assert (exact["speedup"], flat["speedup"], exact["speedup_pairs"]) == (None, "", 0)
            else:
                assert exact["speedup"] == float(flat["speedup"]) == row.speedup.value
            assert not [key for key, value in exact.items() if isinstance(value, dict | list)]
        assert [s["protocol_hash"] for s in document["sections"]] == [s.protocol_hash for s in board.sections]
        assert [tuple(s["remarks"]) for s in document["sections"]] == [s.remarks for s in board.sections]

    def test_markdown(self, board: Board) -> None:
        """Markdown has one well-formed table per section, best values in bold, and the legend."""
        text = RENDERERS["markdown"](board)
        tables = [block for block in text.split("\n\n") if block.startswith("| strategy")]

        assert text.endswith("\n")
        assert len(tables) == 3
        for table, section in zip(tables, board.sections, strict=True):
            lines = table.splitlines()
            assert {line.count("|") for line in lines} == {len(shown(section)) + 3}
            for line, row in zip(lines[2:], section.rows, strict=True):
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                assert cells[0] == f"`{row.spec}`"
                assert cells[-1] == f"`{row.run.folder}`"
        assert tables[0].count("**") == 0
        assert tables[1].splitlines()[2].count("**") == 2 * 6
        assert all(f"- **{column.title}**: {column.legend}" in text for column in COLUMNS)


class TestImports:
    def test_no_torch(self, results: Path) -> None:
        """Records are read and a report is made without torch; importing the report does not even take scipy."""
        code = (
            "import sys; from pathlib import Path; from rich.console import Console\n"
            "from l2pd_bench.report import RENDERERS, make_board, print_board\n"
            "from l2pd_bench import records, writer\n"
            "assert not {'torch', 'scipy', 'numpy', 'transformers'} & set(sys.modules)\n"
            "board = make_board(records.load_runs(Path(sys.argv[1]))); print_board(board, Console())\n"
            "[render(board) for render in RENDERERS.values()]\n"
            "assert 'torch' not in sys.modules and 'scipy' in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code, str(results)], check=True, stdout=subprocess.DEVNULL)
