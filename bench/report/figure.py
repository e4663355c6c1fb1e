"""Figures of a board for a paper: accuracy over TPS and over TPF, as SVG or PNG by matplotlib.

Equal boards give equal files. Colours are those of Okabe and Ito, told apart by the colour
blind; a series has a marker and a line of its own besides. Knows nothing of numbers but
where to put them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from l2pd_bench.errors import UsageError
from l2pd_bench.report.board import Board, Section
from l2pd_bench.report.series import Panel, Series, panels_of, percent_axis, points, printable, series_of, speed_axis
from l2pd_bench.stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS, LINES = "oD^vPX<", ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
GREY, FAINT, PALE = "#555555", "#C8C8C8", 0.4
WIDTH_IN, HEIGHT_IN, HEAD_IN, AXIS_IN, FOOT_IN = 7.2, 3.0, 0.45, 0.45, 0.3  # of a page's two columns
PANELS_IN, PANEL_IN = (0.5, 4.05), 2.15  # where a panel begins, and how wide it is; names stand right of it
GAP = 0.085  # between names, of a panel's height
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "l2pd-bench",  # ids are not drawn at random
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
FOOT = (
    "Filled: on the Pareto frontier (broad line). Bars: 95 % intervals. Dotted: accuracy of fixed-step. "
    "Cross: not deployable. Pale: INVALID."
)


class Ink(NamedTuple):
    """How a series is drawn."""

    colour: str
    marker: str
    line: Any


def check_figure(path: Path) -> None:
    """Raise UsageError if a figure cannot be written to `path`; to be asked before any work is done."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"plot: got '{path}', expected a file that ends in {' or '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise UsageError(f"plot: got '{path}', expected a file in a folder that is there")
    if find_spec("matplotlib") is None:
        raise UsageError("plot: needs matplotlib, which is not installed; pip install matplotlib")


def write_figure(board: Board, path: Path) -> None:
    """Draw every section of the board that has rows to draw, one below the other."""
    check_figure(path)
    sections = [s for s in board.sections if any(series.kind != "bound" for series in series_of(s))]
    if not sections:
        raise UsageError("plot: nothing to draw, as no row is finished and graded; see the report's remarks")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tall = HEIGHT_IN * len(sections) + FOOT_IN
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not the user's own
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH_IN, tall), facecolor="white")
        FigureCanvasAgg(figure)
        for i, section in enumerate(sections):
            _draw_section(figure, section, top=1 - i * HEIGHT_IN / tall, inch=1 / tall)
        figure.text(PANELS_IN[0] / WIDTH_IN, 0.1 / tall, FOOT, color=GREY, size=6.5)
        title = "Accuracy over speed: " + "; ".join(printable(section.title) for section in sections)
        is_svg = path.suffix.lower() == ".svg"
        told = {"Title": title, "Creator": "l2pd-bench", "Date": None} if is_svg else {"Title": title, "Software": None}
        try:
            figure.savefig(path, dpi=200, metadata=told)
        except OSError as error:
            raise UsageError(f"plot: {path} cannot be written ({error.strerror}); choose another file") from error


def _draw_section(figure: Any, section: Section, *, top: float, inch: float) -> None:
    """One or two panels side by side; `top` and `inch` are shares of the figure's height."""
    series = series_of(section)
    title = "\n".join(wrap(printable(section.title), 122))
    figure.text(PANELS_IN[0] / WIDTH_IN, top - 0.12 * inch, title, va="top", size=7, weight="bold", parse_math=False)
    for panel, left in zip(panels_of(section), PANELS_IN, strict=False):
        if any(points(s.rows, panel.speed) for s in series):
            height = HEIGHT_IN - HEAD_IN - AXIS_IN
            box = (left / WIDTH_IN, top - (HEIGHT_IN - AXIS_IN) * inch, PANEL_IN / WIDTH_IN, height * inch)
            _draw_panel(figure.add_axes(box), panel, series)


def _draw_panel(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    """Points with their intervals, the frontier, and a name at the end of every series."""
    found = [p for s in series for p in points(s.rows, panel.speed)]
    across = speed_axis([x for _, x, _ in found])
    ends = [end for row, _, _ in found for end in row.accuracy_interval or ()]
    up = percent_axis([*ends, *(y for _, _, y in found)])
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(up.low, up.high + 0.02 * (up.high - up.low))
    axes.set_xticks(across.ticks, [f"{tick:g}" for tick in across.ticks])
    axes.set_yticks(up.ticks)
    axes.set_xlabel(panel.title)
    axes.set_ylabel("accuracy (%)")
    _draw_frontier(axes, panel)
    inks = _inks(series)
    best = {id(row) for row in panel.frontier}
    for one, ink in zip(series, inks, strict=True):
        _draw_series(axes, panel, one, ink, best)
    base = next((y for row, _, y in found if row.is_baseline), None)
    if base is not None:
        axes.axhline(base, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
    _draw_names(axes, panel, series, inks)


def _inks(series: Sequence[Series]) -> list[Ink]:
    free = zip(cycle(COLOURS), cycle(MARKERS), cycle(LINES), strict=False)
    return [
        Ink(GREY, "x", "none")
        if one.kind == "bound"
        else Ink("black", "s", "-")
        if any(row.is_baseline for row in one.rows)
        else Ink(*next(free))
        for one in series
    ]


def _draw_frontier(axes: Axes, panel: Panel) -> None:
    """The edge of what can be had: down to the right, by steps."""
    corners = [(x, y) for _, x, y in reversed(points(panel.frontier, panel.speed))]
    if corners:
        xs, ys = zip((axes.get_xlim()[0], corners[0][1]), *corners, (corners[-1][0], axes.get_ylim()[0]), strict=True)
        axes.plot(xs, ys, drawstyle="steps-pre", color=FAINT, linewidth=3.5, solid_joinstyle="round", zorder=0.5)


def _draw_series(axes: Axes, panel: Panel, series: Series, ink: Ink, best: set[int]) -> None:
    found = points(series.rows, panel.speed)
    if not found:
        return
    axes.plot([x for _, x, _ in found], [y for _, _, y in found], color=ink.colour, linestyle=ink.line, linewidth=1.0)
    for row, x, y in found:
        speeds = row.tps_interval if panel.title.startswith("TPS") else row.tpf_interval
        across, up = _bars(x, speeds), _bars(y, row.accuracy_interval)
        axes.errorbar(x, y, up, across, fmt="none", ecolor=ink.colour, elinewidth=0.6, alpha=0.3, zorder=1)
        filled = ink.colour if id(row) in best or series.kind == "bound" else "white"
        axes.plot(
            x,
            y,
            ink.marker,
            color=ink.colour,
            markerfacecolor=filled,
            markersize=4.5,
            markeredgewidth=0.9,
            alpha=PALE if row.invalid else 1,
            zorder=4 if id(row) in best else 3,
            clip_on=False,
        )


def _bars(value: float, interval: Interval | None) -> list[list[float]] | None:
    """How far an interval reaches to both sides."""
    return None if interval is None else [[max(value - interval.low, 0)], [max(interval.high - value, 0)]]


def _draw_names(axes: Axes, panel: Panel, series: Sequence[Series], inks: Sequence[Ink]) -> None:
    """Names right of the panel, near the height at which their series end, joined to that by a line.

    A slow row alone has its name beside it.
    """
    low, high = axes.get_ylim()
    ends = []
    for one, ink in zip(series, inks, strict=True):
        found = points(one.rows, panel.speed)
        if not found:
            continue
        _, x, y = max(found, key=lambda p: p[1])
        if len(found) == 1 and x < axes.get_xlim()[1] / 3:
            axes.annotate(
                _name(one), (x, y), (4, -9), textcoords="offset points", color=ink.colour, size=6.5, parse_math=False
            )
        else:
            ends.append(((y - low) / (high - low), x, y, one, ink))
    ends.sort(key=lambda end: (-end[0], -end[1]))
    for height, (_, x, y, one, ink) in zip(spread([end[0] for end in ends]), ends, strict=True):
        axes.annotate(
            _name(one),
            xy=(x, y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            color=ink.colour,
            size=6.5,
            va="center",
            linespacing=0.95,
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": ink.colour,
                "linewidth": 0.5,
                "alpha": 0.5,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _name(series: Series) -> str:
    text = printable(series.label)
    return "\n".join(wrap(shorten(text, 60, placeholder=" ..."), 20))


def spread(heights: Sequence[float], gap: float = GAP) -> list[float]:
    """Heights from the top down, moved apart to at least `gap` and kept in [0, 1] while there is room."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - gap) if placed else height)
    floor = 0.0
    for i in reversed(range(len(placed))):  # what has sunk below the floor pushes the others up again
        placed[i] = max(placed[i], floor)
        floor = placed[i] + gap
    return placed
