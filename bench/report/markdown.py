"""A board as Markdown tables, for a repository or an issue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l2pd_bench.report.board import Board, Frontier, Section
from l2pd_bench.report.columns import (
    BEST_LEGEND,
    COLUMNS,
    NOT_DEPLOYABLE,
    NOT_DEPLOYABLE_LEGEND,
    STRATEGY,
    STRATEGY_LEGEND,
    best,
    shown,
)
from l2pd_bench.report.frontier_table import CURVE_COLUMNS, TITLE, pareto_lines
from l2pd_bench.report.frontier_table import legend as curve_legend


def to_markdown(board: Board) -> str:
    """The whole board, best values in bold, the legend at the end."""
    return "\n".join(_lines(board)) + "\n"


def _lines(board: Board) -> Iterator[str]:
    for note in board.notes:
        yield from (f"> {escaped(note)}", "")
    for section in board.sections:
        yield from (f"## {escaped(section.title)}", "")
        yield from _table(section)
        yield ""
        yield from _frontier(section.frontier)
        if section.remarks:
            yield from (f"- {escaped(remark)}" for remark in section.remarks)
            yield ""
    yield from ("### Legend", "", f"- **bold**: {BEST_LEGEND}", f"- **{STRATEGY}**: {STRATEGY_LEGEND}")
    yield f"- **{NOT_DEPLOYABLE}**: {NOT_DEPLOYABLE_LEGEND}"
    yield from (f"- **{column.title}**: {column.legend}" for column in COLUMNS)
    frontiers = [section.frontier for section in board.sections]
    yield from (f"- **{title}**: {text}" for title, text in curve_legend(frontiers))


def _table(section: Section) -> Iterator[str]:
    columns = shown(section)
    winners = [best(section, column) for column in columns]
    yield table_line([STRATEGY, *(f"{c.title} ({c.under})" if c.under else c.title for c in columns), "records"])
    yield table_line(["---", *("---" if c.is_words else "---:" for c in columns), "---"])
    for index, row in enumerate(section.rows):
        cells = [f"`{row.spec}`" if row.deployable else f"`{row.spec}` {NOT_DEPLOYABLE}"]
        for column, winning in zip(columns, winners, strict=True):
            text = f"**{column.text(row)}**" if index in winning else column.text(row)
            cells.append(f"{text} ({detail})" if (detail := column.detail(row)) else text)
        yield table_line([*cells, f"`{row.run.folder}`"])


def _frontier(frontier: Frontier | None) -> Iterator[str]:
    """The rows that no other one beats, and a table of the curves."""
    if frontier is None:
        return
    yield from (f"- {what}: {', '.join(f'`{spec}`' for spec in specs)}" for what, specs in pareto_lines(frontier))
    yield ""
    if frontier.curves:
        yield table_line([TITLE, *(column.title for column in CURVE_COLUMNS)])
        yield table_line(["---", *("---:" for _ in CURVE_COLUMNS)])
        for curve in frontier.curves:
            yield table_line([f"`{curve.name}` ({curve.knob})", *(column.text(curve) for column in CURVE_COLUMNS)])
        yield ""


def table_line(cells: Sequence[str]) -> str:
    """A line of a table, whatever is in its cells."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def escaped(text: str) -> str:
    """Text from a record: one line, and no markup."""
    return "".join(f"\\{c}" if c in "\\`*_<>[]" else c for c in " ".join(text.split()))
