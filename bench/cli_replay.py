"""`replay`: parses and calls, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    doc_id: Annotated[str, typer.Argument(help="The sample, such as mini-math/003 or 003.")],
    other: Annotated[Path | None, typer.Option(help="A second run, step by step beside the first.")] = None,
    speed: Annotated[float, typer.Option(help="So many times as fast.")] = 1.0,
    plain: Annotated[
        bool, typer.Option("--plain", help="One line for each step, as also where the output is no terminal.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="A folder of item files, where a sample without a trace is decoded again.")
    ] = None,
) -> None:
    """Watch one recorded sample being decoded.

    The steps are those that `run --trace` wrote down; without them the sample is decoded again, as recorded.
    """
    from rich.console import Console

    from l2pd_bench import replay as replaying

    replaying.require_speed(speed)
    takes = replaying.find_takes([run] if other is None else [run, other], doc_id, data_dir=data_dir)
    console = Console()
    if plain or not console.is_terminal:
        for line in replaying.plain(takes):
            print(line)
        return
    replaying.play(takes, console, speed=speed)
