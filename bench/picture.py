"""A canvas that is being filled, as a terminal shows it: masks as dots, tokens coloured by step, grey where unsure.

Knows nothing of models and files. What tokens spell is shown as characters, never as
markup, and nothing in it reaches the terminal as a control sequence.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.style import Style
from rich.text import Text

from l2pd_bench.trace import Trace, TraceStep

MASK, SPECIAL, NEWLINE, UNPRINTABLE = "·", "∎", "↵", "▯"  # a special token spells nothing
FRAME = 4  # columns, and lines with title and state, that a panel needs besides the canvas
_FIRST_HUE, _LAST_HUE = 0.72, 0.04  # violet to orange
_GREY = 0.1


class Cell(NamedTuple):
    """A filled column."""

    text: str
    confidence: float
    step: int


class Picture:
    """The canvas of one sample after the steps it was told of; a rich renderable.

    `text_of`: what a token spells. `total`: how many steps there will be, None if nobody
    knows yet: colours then reach from the first step to the latest.
    """

    def __init__(self, title: str, gen_length: int, text_of: Callable[[int], str], total: int | None = None) -> None:
        self.step = 0
        self._title, self._text_of, self._total = title, text_of, total
        self._cells: list[Cell | None] = [None] * gen_length
        self._end = gen_length
        self._block = (0, 0)
        self._remasked = 0

    def apply(self, told: TraceStep) -> None:
        """Go on by one step."""
        self.step += 1
        for column, token, confidence in zip(told.columns, told.tokens, told.confidences, strict=True):
            self._cells[column] = Cell(self._text_of(token), confidence, self.step)
        for column in told.remasked:
            self._cells[column] = None
        self._end, self._block, self._remasked = told.end, told.block, len(told.remasked)

    @property
    def masks(self) -> int:
        """Columns that are still to be filled."""
        return self._cells[: self._end].count(None)

    @property
    def state(self) -> str:
        """What this step was, in words."""
        new = sum(cell is not None and cell.step == self.step for cell in self._cells[: self._end])
        emptied = f", {self._remasked} emptied" if self._remasked else ""
        of = f" of {self._total}" if self._total is not None else ""
        return f"forward {self.step}{of}: {new} filled{emptied}; {self.masks} masks left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A panel as wide as there is room; of a canvas that is too high, the part around the newest tokens."""
        lines, newest = self._lines(max(options.max_width - FRAME, 1))
        room = max(console.height - FRAME, 1)
        top = min(max(newest - room // 2, 0), max(len(lines) - room, 0))
        shown = Text("\n").join(lines[top : top + room])
        yield Panel(shown, title=Text(visible(self._title)), subtitle=Text(self.state), title_align="left")

    def _lines(self, width: int) -> tuple[list[Text], int]:
        """The canvas in lines of at most `width` cells, and which of them has the first of the newest tokens."""
        lines, newest = [Text()], None
        for column, cell in enumerate(self._cells[: self._end]):
            style = self._style(column, cell)
            for piece in chop_cells(MASK if cell is None else visible(cell.text), width):
                if lines[-1].cell_len + cell_len(piece) > width:
                    lines.append(Text())
                *ended, rest = piece.split(NEWLINE)
                for part in ended:
                    lines[-1].append(part + NEWLINE, style)
                    lines.append(Text())
                lines[-1].append(rest, style)
            if cell is not None and cell.step == self.step and newest is None:
                newest = len(lines) - 1
        return lines, newest or 0

    def _style(self, column: int, cell: Cell | None) -> Style:
        if cell is None:
            return Style(bold=True) if self._block[0] <= column < self._block[1] else Style(dim=True)
        part = (cell.step - 1) / max((self._total or self.step) - 1, 1)
        hue = _FIRST_HUE + part * (_LAST_HUE - _FIRST_HUE)
        red, green, blue = colorsys.hls_to_rgb(hue, 0.55, _GREY + (1 - _GREY) * cell.confidence)
        is_new = cell.step == self.step
        return Style(color=Color.from_rgb(255 * red, 255 * green, 255 * blue), bold=is_new, underline=is_new)


def visible(text: str) -> str:
    """A token's text with a sign for everything that is not to be printed."""
    return "".join(c if c.isprintable() else NEWLINE if c == "\n" else UNPRINTABLE for c in text) or SPECIAL


def _quoted(text: str) -> str:
    return repr(text) if text else SPECIAL


def plain_line(trace: Trace, number: int) -> str:
    """Step `number` (from 0) of a trace in one line of plain text."""
    step = trace.steps[number]
    filled = [
        f"{column}:{_quoted(trace.vocabulary[token])} {confidence:.2f}"
        for column, token, confidence in zip(step.columns, step.tokens, step.confidences, strict=True)
    ]
    emptied = [f"emptied {', '.join(map(str, step.remasked))}"] if step.remasked else []
    block = f"block {step.block[0]}-{step.block[1] - 1}"
    before = trace.steps[number - 1].end if number else trace.gen_length
    cut = [f"ends before {step.end}"] if step.end < before else []
    return f"{number + 1}/{len(trace.steps)}  {block}  " + "  ".join([*filled, *emptied, *cut])
