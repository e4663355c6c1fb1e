"""A board as LaTeX: well formed by a checker of its own, and by a real LaTeX where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import FAST, FIXED, manifest, record, sample

from l2pd_bench.records import load_runs
from l2pd_bench.report import Board, make_board
from l2pd_bench.report.board import Row
from l2pd_bench.report.columns import COLUMNS, best, shown
from l2pd_bench.report.frontier_table import CURVE_COLUMNS
from l2pd_bench.report.latex import to_latex

HOSTILE = (
    "a\\b {c} d_e 50% A&B #1 $x$ ~ ^ <t> |--'' [y] `z` \N{SNOWMAN}\x1b[31m \\input{/etc/passwd} \N{DAGGER}2\N{EN DASH}3"
)


def plain(latex: str) -> str:
    """The text that a piece of LaTeX shows, by the meaning of every command the renderer may use."""
    named = {
        **{"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"},
        **{"textbar": "|", "textasciigrave": "`", "textendash": "\N{EN DASH}", "textemdash": "\N{EM DASH}"},
        **{"dag": "\N{DAGGER}", "ldots": "\N{HORIZONTAL ELLIPSIS}"},
    }
    out, at = "", 0
    while at < len(latex):
        if found := re.match(r"\\([a-zA-Z]+)(\{\})?", latex[at:]):
            word = found[1]
            assert word in named or word in ("textbf", "texttt", "scriptsize"), f"\\{word} is no text"
            out += named.get(word, "")
            at += len(found[0]) if word in named else len(word) + 1 + (latex[at + len(word) + 1] == " ")
        elif found := re.match(r"\\([{}_%&#$])", latex[at:]):
            out, at = out + found[1], at + 2
        else:
            assert latex[at] not in "\\%&#$_^~<>|`", f"a bare {latex[at]} in {latex[at : at + 30]}"
            out, at = out + ("" if latex[at] in "{}" else latex[at]), at + 1
    return out


def check(text: str) -> list[list[list[str]]]:
    """Assert balance of braces and environments and equal numbers of columns; returns the cells of every table."""
    assert text.isascii()
    depth = 0
    for sign in re.findall(r"(?<!\\)(?:\\\\)*([{}])", text):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    assert depth == 0
    open_: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_
    tables = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.S):
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert all(line.endswith(" \\\\") for line in lines)
        cells = [re.split(r"(?<!\\)&", line.removesuffix(" \\\\")) for line in lines]
        assert {len(row) for row in cells} == {len(columns)}
        tables.append([[cell.strip() for cell in row] for row in cells])
    return tables


def odd_board(root: Path) -> Board:
    """One section with everything that is special to LaTeX in its notes, specs, errors and settings."""
    what = manifest(f"[{HOSTILE}", planned=4)
    what = replace(what, notes=[HOSTILE], strategy=replace(what.strategy, slug="odd"), error=HOSTILE)
    return make_board([record(root, what, [sample(i) for i in range(3)], finished=False)])


def swept_board(root: Path) -> Board:
    """One section of a rule at two values of its knob."""
    for spec, speed, accuracy in ((FIXED, 1.0, 1.0), ("threshold:tau=0.9", 4.0, 0.9), ("threshold:tau=0.5", 8.0, 0.7)):
        record(root, manifest(spec, planned=20), [sample(i, speed=speed, accuracy=accuracy) for i in range(20)])
    return make_board(load_runs(root))


def test_cells(board: Board) -> None:
    """Each section is one table of two parts with all its cells, the best ones in bold, under the section's title."""
    text = to_latex(board)
    tables = check(text)
    captions = re.findall(r"\\caption\{(.*)\}", text)

    assert len(captions) == len(board.sections) == 3
    assert [plain(caption) for caption in captions] == [section.title for section in board.sections]
    parts = [(section, group) for section in board.sections for group in ("result", "work")]
    for table, (section, group) in zip(tables, parts, strict=True):
        columns = [column for column in shown(section) if column.group == group]
        head, under, *lines = table
        assert [plain(cell) for cell in head] == ["strategy", *(c.title for c in columns)]
        assert [plain(cell) for cell in under] == ["", *(c.under for c in columns)]
        for index, row in enumerate(section.rows):
            values, details = lines[2 * index : 2 * index + 2]
            assert [plain(cell) for cell in values] == [row.spec, *(c.text(row) for c in columns)]
            assert [plain(cell) for cell in details] == ["", *(c.detail(row) for c in columns)]
            bold = [c.title for c, cell in zip(columns, values[1:], strict=True) if cell.startswith("\\textbf{")]
            assert bold == [c.title for c in columns if index in best(section, c)]
        assert len(lines) == 2 * len(section.rows)
    assert "\\textbf{" in str(tables[2])


def test_what_stands_below(board: Board) -> None:
    """Notes, every remark and every line of the legend are there as text; a remark names its table by label."""
    text = to_latex(replace(board, notes=("a first line",)))
    items = [plain(item) for item in re.findall(r"^\\item (.*)$", text, re.M)]

    assert "\\textbf{Note:} a first line" in text
    for section in board.sections:
        assert f"\\label{{tab:l2pd-{section.protocol_hash[:8]}}}" in text
        assert set(section.remarks) <= set(items)
        has_text = bool(section.remarks) or section.frontier is not None
        assert (f"\\ref{{tab:l2pd-{section.protocol_hash[:8]}}}" in text) == has_text
    assert {f"{column.title}: {column.legend}" for column in COLUMNS} <= set(items)


def test_frontier(tmp_path: Path) -> None:
    """What was swept is a third part of the table, a line per curve; the Pareto rows stand below, and the legend."""
    board = swept_board(tmp_path)
    text = to_latex(board)
    (section,) = board.sections
    assert section.frontier is not None
    (curve,) = section.frontier.curves
    _, _, (head, line) = check(text)

    assert [plain(cell) for cell in head] == ["speed knob", *(c.title for c in CURVE_COLUMNS)]
    assert [plain(cell) for cell in line] == ["threshold (tau)", *(c.text(curve) for c in CURVE_COLUMNS)]
    names = ", ".join(row.spec for row in section.frontier.by_tps)
    assert f"Pareto by TPS: {names}" in [plain(item) for item in re.findall(r"^\\item (.*)$", text, re.M)]
    assert "\\textbf{AUP}" in text


def test_hostile_text(tmp_path: Path) -> None:
    """Signs of LaTeX, control sequences and foreign signs in records are shown as text; nothing is a command."""
    board = odd_board(tmp_path)
    text = to_latex(board)
    table, _ = check(text)
    told = HOSTILE.replace("\N{SNOWMAN}", "[U+2603]").replace("\x1b", "[U+001B]")

    assert plain(table[2][0]) == f"[{told}"
    (note,) = re.findall(r"Note:\} (.*)$", text, re.M)
    assert plain(note) == told
    assert "--" not in note.replace("-{}-", "")  # no dash was made of two hyphens
    assert "\\input" not in text


def test_oracle_has_a_dagger(tmp_path: Path) -> None:
    """A row that is not deployable carries the dagger, and the legend says what that means."""
    runs = [record(tmp_path, manifest(spec), [sample(i) for i in range(5)]) for spec in (FIXED, "oracle", FAST)]
    table, _ = check(to_latex(make_board(runs)))
    names = [plain(line[0]) for line in table[2::2]]

    assert sorted(names) == sorted([FIXED, "oracle \N{DAGGER}", FAST])


@pytest.mark.parametrize("kind", ["board", "odd", "empty", "swept"])
def test_compiles(kind: str, board: Board, tmp_path: Path) -> None:
    """A real LaTeX makes a document of it with booktabs alone, and every reference leads to a table."""
    engine = next((found for name in ("pdflatex", "tectonic") if (found := shutil.which(name))), None)
    if engine is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    made = {"odd": odd_board, "swept": swept_board}
    body = to_latex(made[kind](tmp_path / "records") if kind in made else board if kind == "board" else Board((), ()))
    head = "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "board.tex").write_text(f"{head}{body}\\end{{document}}\n", "ascii")
    words = [engine, "board.tex"] if engine.endswith("tectonic") else [engine, "-halt-on-error", "board.tex"]
    for _ in range(2):  # the second time references are known
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]

    assert (tmp_path / "board.pdf").stat().st_size > 1000
    assert "Warning: Reference" not in done.stdout
    assert "multiply defined" not in done.stdout


def test_rows_have_strategies_first(board: Board) -> None:
    """Every row's name is set as code, so that no name can begin an optional argument of the line above."""
    rows: list[Row] = [row for section in board.sections for row in section.rows]

    assert to_latex(board).count("\n\\texttt{") == 2 * len(rows)
