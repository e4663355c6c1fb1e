"""A board as LaTeX tables, for a paper: needs the package booktabs and nothing else.

A section is one table in parts, so that it fits the width of a page: the results, the work
behind them, the curves of what was swept. A row takes two lines, the values over their
details. Remarks and legend are text behind the tables, free to be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from l2pd_bench.report.board import Board, Curve, Row, Section
from l2pd_bench.report.columns import (
    BEST_LEGEND,
    COLUMNS,
    NOT_DEPLOYABLE,
    NOT_DEPLOYABLE_LEGEND,
    STRATEGY,
    STRATEGY_LEGEND,
    Column,
    best,
    shown,
)
from l2pd_bench.report.frontier_table import CURVE_COLUMNS, TITLE, legend, pareto_lines

_SIGNS = {
    **{c: f"\\{c}" for c in "{}_%&#$"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "`": "\\textasciigrave{}"},
    **{"[": "{[}", "]": "{]}"},  # behind a line's end or an item they would begin an argument
    **{"\N{EN DASH}": "\\textendash{}", "\N{EM DASH}": "\\textemdash{}", "\N{MINUS SIGN}": "$-$"},
    **{"\N{DAGGER}": "\\dag{}", "\N{MULTIPLICATION SIGN}": "$\\times$", "\N{HORIZONTAL ELLIPSIS}": "\\ldots{}"},
    **{"\N{LESS-THAN OR EQUAL TO}": "$\\le$", "\N{GREATER-THAN OR EQUAL TO}": "$\\ge$"},
}
_END = ("\\bottomrule", "\\end{tabular}", "\\par\\medskip")
_JOINING = "-',"  # two of them would make another sign


def to_latex(board: Board) -> str:
    """The whole board: one table per section, best values in bold, each with its remarks, then the legend."""
    return "\n".join(_lines(board)) + "\n"


def _lines(board: Board) -> Iterator[str]:
    yield "% In the preamble: \\usepackage{booktabs}"
    for note in board.notes:
        yield from (f"\\noindent\\textbf{{Note:}} {_escaped(note)}", "")
    for section in board.sections:
        yield from (*_table(section), "")
        told = [_escaped(remark) for remark in section.remarks]
        if section.frontier is not None:
            pareto = pareto_lines(section.frontier)
            told += [f"{_escaped(what)}: {', '.join(map(_code, specs))}" for what, specs in pareto]
        if told:
            yield from (f"\\noindent On Table~\\ref{{{_label(section)}}}:", *_items(told), "")
    entries = [
        ("bold", BEST_LEGEND),
        (STRATEGY, STRATEGY_LEGEND),
        (NOT_DEPLOYABLE, NOT_DEPLOYABLE_LEGEND),
        *((column.title, column.legend) for column in COLUMNS),
        *legend([section.frontier for section in board.sections]),
    ]
    yield "\\noindent Legend:"
    yield from _items(f"\\textbf{{{_escaped(word)}}}: {_escaped(text)}" for word, text in entries)


def _table(section: Section) -> Iterator[str]:
    yield from ("\\begin{table*}[tp]", "\\centering", "\\footnotesize", "\\setlength{\\tabcolsep}{3pt}")
    yield from (f"\\caption{{{_escaped(section.title)}}}", f"\\label{{{_label(section)}}}")
    for group in ("result", "work"):
        yield from _part(section, [column for column in shown(section) if column.group == group])
    if section.frontier is not None and section.frontier.curves:
        yield from _curves(section.frontier.curves)
    yield "\\end{table*}"


def _part(section: Section, columns: list[Column]) -> Iterator[str]:
    winners = [best(section, column) for column in columns]
    yield from _begin("".join("l" if column.is_words else "r" for column in columns))
    yield _line([STRATEGY, *(_escaped(column.title) for column in columns)])
    yield _line(["", *(_small(column.under) for column in columns)])
    yield "\\midrule"
    for index, row in enumerate(section.rows):
        yield _line([_name(row), *(_cell(row, c, index in w) for c, w in zip(columns, winners, strict=True))])
        yield _line(["", *(_small(column.detail(row)) for column in columns)])
    yield from _END


def _curves(curves: Sequence[Curve]) -> Iterator[str]:
    yield from _begin("r" * len(CURVE_COLUMNS))
    yield from (_line([TITLE, *(_escaped(column.title) for column in CURVE_COLUMNS)]), "\\midrule")
    for curve in curves:
        name = f"{_code(curve.name)} ({_escaped(curve.knob)})"
        yield _line([name, *(_escaped(column.text(curve)) for column in CURVE_COLUMNS)])
    yield from _END


def _begin(alignment: str) -> tuple[str, str]:
    return f"\\begin{{tabular}}{{@{{}}l{alignment}@{{}}}}", "\\toprule"


def _name(row: Row) -> str:
    return _code(row.spec) + ("" if row.deployable else f" {_escaped(NOT_DEPLOYABLE)}")


def _code(text: str) -> str:
    return f"\\texttt{{{_escaped(text)}}}"


def _cell(row: Row, column: Column, is_best: bool) -> str:
    text = _escaped(column.text(row))
    return f"\\textbf{{{text}}}" if is_best else text


def _small(text: str) -> str:
    return f"{{\\scriptsize {_escaped(text)}}}" if text else ""


def _line(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _items(texts: Iterable[str]) -> Iterator[str]:
    yield from ("\\begin{itemize}", *(f"\\item {text}" for text in texts), "\\end{itemize}")


def _label(section: Section) -> str:
    return f"tab:l2pd-{section.protocol_hash[:8]}"


def _escaped(text: str) -> str:
    """Text from a record: one line, and no command; a sign that plain LaTeX lacks is told by its number."""
    plain = " ".join(text.split())
    return "".join(("{}" if c == before and c in _JOINING else "") + _sign(c) for before, c in pairwise(f" {plain}"))


def _sign(c: str) -> str:
    if c in _SIGNS:
        return _SIGNS[c]
    return c if " " <= c <= "~" else f"{{[}}U+{ord(c):04X}{{]}}"
