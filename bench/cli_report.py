"""What is made of records: parses and calls, nothing else."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from l2pd_bench.errors import UsageError


class Format(StrEnum):
    """What a report can be written as."""

    rich = "rich"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    latex = "latex"
    html = "html"


def report(
    results: Annotated[Path, typer.Argument(help="A folder of records, or one run's folder.")] = Path("runs"),
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.rich,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Make the leaderboard from records."""
    from rich.console import Console

    from l2pd_bench.records import load_runs
    from l2pd_bench.report import RENDERERS, print_board
    from l2pd_bench.report.model import make_board

    board = make_board(load_runs(results, whole=False))
    if format is Format.rich:
        if output is not None:
            raise UsageError(
                "output: 'rich' is for the terminal; choose --format markdown, csv, json, latex or html to write a file"
            )
        print_board(board, Console())
        return
    text = RENDERERS[format.value](board)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"output: {output} cannot be written ({error.strerror}); choose another file") from error


def show(folders: list[Path]) -> None:
    """Print the board of these runs."""
    from rich.console import Console

    from l2pd_bench.records import read_run
    from l2pd_bench.report import print_board
    from l2pd_bench.report.model import make_board

    runs = [run for folder in folders if (run := read_run(folder, whole=False)) is not None]
    print_board(make_board(runs), Console())
