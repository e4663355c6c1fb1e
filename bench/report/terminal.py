"""A board on a terminal: one table per section where it fits, else as many, stacked, as needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from l2pd_bench.report.board import Board, Frontier, Row, Section
from l2pd_bench.report.columns import (
    BEST_LEGEND,
    COLUMNS,
    NOT_DEPLOYABLE,
    NOT_DEPLOYABLE_LEGEND,
    STRATEGY,
    STRATEGY_LEGEND,
    Column,
    best,
    name,
    shown,
)
from l2pd_bench.report.frontier_table import STACKED, TITLE, pareto_lines
from l2pd_bench.report.frontier_table import legend as curve_legend

MARK = "*"
WORDS_WIDTH = 24
STRATEGY_WIDTHS = (36, 20)  # in one table of everything, in several stacked ones


def print_board(board: Board, console: Console) -> None:
    """Write the board to `console`, as wide as that is."""
    for note in board.notes:
        console.print(_text(f"Note: {note}", "yellow"))
    for section in board.sections:
        console.print()
        console.print(_text(section.title, "bold"))
        for table in _tables(section, console):
            console.print()
            console.print(table)
        console.print()
        if section.frontier is not None:
            _print_frontier(section.frontier, console)
        for folder in sorted({_pattern(row) for row in section.rows}):
            console.print(_pairs([("records:", folder)]))
        console.print(_pairs([("-", remark) for remark in section.remarks]))
    console.print()
    legend = [
        (MARK, BEST_LEGEND),
        (NOT_DEPLOYABLE, NOT_DEPLOYABLE_LEGEND),
        (STRATEGY, STRATEGY_LEGEND),
        *((c.title, c.legend) for c in COLUMNS),
        *curve_legend([section.frontier for section in board.sections]),
    ]
    console.print(_pairs(legend, "dim"))


def _tables(section: Section, console: Console) -> list[Table]:
    """All columns in one table where that fits; else the results, then the work, each in as few as possible."""

    def width(table: Table) -> int:
        return Measurement.get(console, console.options.update(max_width=10_000), table).maximum

    wide, narrow = STRATEGY_WIDTHS
    columns = shown(section)
    everything = _table(section, columns, wide)
    if width(everything) <= console.width:
        return [everything]
    names = width(_table(section, [], narrow))
    parts: list[list[Column]] = []
    for group in ("result", "work"):
        taken = console.width  # a group begins in a table of its own
        for column in (c for c in columns if c.group == group):
            more = width(_table(section, [column], narrow)) - names  # a table is as wide as its columns
            if taken + more > console.width:
                parts.append([])
                taken = names
            parts[-1].append(column)
            taken += more
    return [_table(section, part, narrow) for part in parts]


def _table(section: Section, columns: Sequence[Column], strategy_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(STRATEGY, overflow="fold")
    for column in columns:
        table.add_column(
            f"{column.title}\n{column.under}".strip(),
            justify="left" if column.is_words else "right",
            overflow="fold",
            max_width=WORDS_WIDTH if column.is_words else None,
        )
    winners = [best(section, column) for column in columns]
    for index, row in enumerate(section.rows):
        cells = (_cell(row, column, index in w) for column, w in zip(columns, winners, strict=True))
        table.add_row(_folded(name(row), strategy_width), *cells)
    return table


def _print_frontier(frontier: Frontier, console: Console) -> None:
    """The rows that no other one beats, and a table of the curves."""
    console.print(_pairs([(f"{what}:", ", ".join(specs)) for what, specs in pareto_lines(frontier)]))
    if frontier.curves:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column(TITLE, overflow="fold")
        for stack in STACKED:
            table.add_column("\n".join(column.title for column in stack), justify="right", overflow="fold")
        for curve in frontier.curves:
            label = _folded(f"{curve.name} ({curve.knob})", STRATEGY_WIDTHS[-1])
            cells = ("\n".join(column.text(curve) for column in stack) for stack in STACKED)
            table.add_row(label, *map(Text, cells))
        console.print()
        console.print(table)
    console.print()


def _cell(row: Row, column: Column, is_best: bool) -> Text:
    """The mark stands before the number, so that the digits of a column stay aligned."""
    cell = Text(MARK + column.text(row), style="bold green") if is_best else Text(column.text(row))
    detail = column.detail(row)
    return cell.append(f"\n{detail}", style="not bold dim") if detail else cell


def _folded(spec: str, width: int) -> Text:
    """A strategy's spec, broken between its parameters (or anywhere, at need) where it is longer than `width`."""
    lines = [""]
    for part in re.findall(rf"[^:,]{{1,{width - 1}}}[:,]?|[:,]", spec):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return Text("\n").join(_text(line) for line in lines)


def _pairs(pairs: Sequence[tuple[str, str]], style: str = "") -> Table:
    """Lines of a word and a text, the texts aligned."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for word, text in pairs:
        grid.add_row(_text(word), _text(text, style))
    return grid


def _pattern(row: Row) -> str:
    """Where the records of a row's section are: the folders differ in the strategy only."""
    return str(Path(row.run.folder).parent / f"*--{row.run.manifest.protocol_hash[:8]}")


def _text(content: str, style: str = "") -> Text:
    """Text from a record: never markup, never a control sequence."""
    return Text("".join(c if c.isprintable() else "?" for c in content), style=style, overflow="fold")
