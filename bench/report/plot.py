"""Plots of a board for a terminal: accuracy over speed, drawn with letters.

Drawn by hand, of ASCII: a plotting library's axes are of characters that not every
terminal has, and its series differ in colour. Here a letter tells the series, and its
capital the Pareto frontier, so that nothing is lost without colour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from string import ascii_lowercase

from rich.console import Console
from rich.text import Text

from l2pd_bench.report.board import Board, Section
from l2pd_bench.report.series import (
    Axis,
    Panel,
    Series,
    panels_of,
    percent_axis,
    points,
    printable,
    series_of,
    speed_axis,
)

HEIGHT, WIDEST, MARGIN = 15, 100, 5  # lines, columns, columns left of the axis
SEVERAL, SEVERAL_BEST, REST, NEVER_BEST = "#", "@", ".", "*"
KEY = f"capital: Pareto frontier; {SEVERAL}: several; {SEVERAL_BEST}: one of them on it"


def print_plots(board: Board, console: Console) -> None:
    """Write the plots of every section, as wide as the console is."""
    for section in board.sections:
        console.print()
        console.print(Text(printable(section.title), style="bold"))
        for line in plot(section, min(console.width, WIDEST)):
            console.print(Text(line))


def plot(section: Section, width: int) -> list[str]:
    """The lines of a section's plots and their key; one sentence where there is nothing to draw."""
    series = series_of(section)
    if not any(s.kind != "bound" for s in series):
        return ["nothing to plot: no row is finished and graded"]
    letters = _letters(series)
    lines = [line for panel in panels_of(section) for line in _panel(panel, series, letters, width)]
    bound = {"bound": " (not deployable)"}
    key = [f"{letter} {printable(s.label)}{bound.get(s.kind, '')}" for letter, s in zip(letters, series, strict=True)]
    invalid = sum(bool(row.invalid) for s in series for row in s.rows)
    note = [f"INVALID, drawn but on no frontier: {invalid} rows; see the remarks"] if invalid else []
    return [*lines, "", *key, KEY, *note]


def _letters(series: Sequence[Series]) -> list[str]:
    """One for each: a letter, or what all share for which none is left."""
    free = iter(ascii_lowercase)
    return [NEVER_BEST if s.kind == "bound" else next(free, REST) for s in series]


def _panel(panel: Panel, series: Sequence[Series], letters: Sequence[str], width: int) -> Iterator[str]:
    found = [(p, letter) for s, letter in zip(series, letters, strict=True) for p in points(s.rows, panel.speed)]
    if not found:
        return
    across, up = speed_axis([x for (_, x, _), _ in found]), percent_axis([y for (_, _, y), _ in found])
    columns = width - MARGIN - 2
    canvas = [[" "] * columns for _ in range(HEIGHT)]
    best = {id(row) for row in panel.frontier}
    cells: defaultdict[tuple[int, int], list[tuple[str, bool]]] = defaultdict(list)
    for (row, x, y), letter in found:
        cells[_line(y, up), _column(x, across, columns)].append((letter, id(row) in best))
    for (line, column), marks in cells.items():
        canvas[line][column] = _mark({letter for letter, _ in marks}, any(is_best for _, is_best in marks))
    yield from ("", f"accuracy (%) over {panel.title}")
    numbers = {_line(tick, up): f"{tick:g}" for tick in up.ticks}
    for i, letters_of_line in enumerate(canvas):
        yield f"{numbers.get(i, ''):>{MARGIN}} {'+' if i in numbers else '|'}{''.join(letters_of_line)}".rstrip()
    yield from _foot(across, columns)


def _mark(letters: set[str], is_best: bool) -> str:
    """What stands at a place: the letter, or that there are several."""
    if len(letters) > 1:
        return SEVERAL_BEST if is_best else SEVERAL
    (letter,) = letters
    return letter.upper() if is_best else letter


def _foot(across: Axis, columns: int) -> Iterator[str]:
    """The axis below, and the numbers along it as far as there is room."""
    line, words = ["-"] * columns, [" "] * columns
    free = 0
    for tick in across.ticks:
        column, word = _column(tick, across, columns), f"{tick:g}"
        begin = min(max(column - len(word) // 2, 0), columns - len(word))
        line[column] = "+"
        if begin >= free:
            words[begin : begin + len(word)] = word
            free = begin + len(word) + 1
    yield " " * MARGIN + " +" + "".join(line)
    yield " " * MARGIN + "  " + "".join(words).rstrip()


def _line(y: float, up: Axis) -> int:
    return round((up.high - y) / (up.high - up.low) * (HEIGHT - 1))


def _column(x: float, across: Axis, columns: int) -> int:
    return round((x - across.low) / (across.high - across.low) * (columns - 1))
