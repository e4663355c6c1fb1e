"""`l2pd-bench export`: parses and calls, nothing else."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from l2pd_bench.errors import UsageError


class Service(StrEnum):
    """Where a board can go."""

    evaluate = "evaluate"
    wandb = "wandb"
    trackio = "trackio"
    tensorboard = "tensorboard"


def export(
    results: Annotated[Path, typer.Argument(help="A folder of records, or one run's folder.")],
    to: Annotated[Service, typer.Option(help="wandb stays offline unless WANDB_MODE says otherwise.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder to write to. [default: the service's own]")
    ] = None,
    project: Annotated[str, typer.Option(help="Its name in wandb and trackio.")] = "l2pd-bench",
) -> None:
    """Put a board into wandb, trackio or tensorboard, one run per row, or into files as evaluate.save writes them."""
    from l2pd_bench import export_to
    from l2pd_bench.records import load_runs
    from l2pd_bench.report.model import make_board

    board = make_board(load_runs(results, whole=False))
    try:
        print(export_to.export(board, to.value, output, project))
    except OSError as error:
        raise UsageError(f"output: {output or to.value} cannot be written ({error}); choose another folder") from error
