"""What is made of records: parses and calls, nothing else."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2pd_bench import cli_options as opt
from l2pd_bench.collector import paused
from l2pd_bench.errors import UsageError

if TYPE_CHECKING:
    from l2pd_bench.report.board import Board


class Format(StrEnum):
    """What a report can be written as."""

    rich = "rich"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


@paused()
def report(
    results: Annotated[Path, typer.Argument(help="A folder of records, or one run's folder.")] = Path("runs"),
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.rich,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    margin: opt.Margin = None,
    plot: opt.Plot = None,
    claims: Annotated[bool, typer.Option("--claims", help="Set published numbers beside the measured ones.")] = False,
) -> None:
    """Make the leaderboard from records."""
    from rich.console import Console

    from l2pd_bench.records import load_runs
    from l2pd_bench.report import RENDERERS, print_board
    from l2pd_bench.report.claims import WITH_CLAIMS, add_claims, claims_text
    from l2pd_bench.report.figure import check_figure, write_figure
    from l2pd_bench.report.model import make_board

    if claims and format is not Format.rich and format.value not in WITH_CLAIMS:
        raise UsageError(f"claims: got --format {format.value}, expected rich, {' or '.join(WITH_CLAIMS)}")
    if plot is not None:
        check_figure(plot)
    board = make_board(load_runs(results, whole=False), opt.checked_margin(margin))
    if plot is not None:
        write_figure(board, plot)
    if format is Format.rich:
        if output is not None:
            raise UsageError(
                f"output: 'rich' is for the terminal; choose --format {', '.join(RENDERERS)} to write a file"
            )
        print_board(board, Console())
        if claims:
            Console().print(claims_text(board), markup=False, highlight=False, emoji=False)
        return
    text = RENDERERS[format.value](board)
    if claims:
        text = add_claims(text, format.value, board)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"output: {output} cannot be written ({error.strerror}); choose another file") from error


def show(folders: list[Path], margin: float | None = None) -> Board:
    """Print the board of these runs."""
    from rich.console import Console

    from l2pd_bench.records import read_run
    from l2pd_bench.report import print_board
    from l2pd_bench.report.model import make_board

    runs = [run for folder in folders if (run := read_run(folder, whole=False)) is not None]
    board = make_board(runs, opt.checked_margin(margin))
    print_board(board, Console())
    return board


def exit_code(board: Board, outcome: int) -> int:
    """That of a command that ran: 1 also where a row is INVALID for more than few samples, which is said."""
    spoiled = sum(row.spoiled for section in board.sections for row in section.rows)
    if spoiled:
        print(f"{spoiled} rows are INVALID, for the reasons told with the board", file=sys.stderr)
    return outcome or (1 if spoiled else 0)
