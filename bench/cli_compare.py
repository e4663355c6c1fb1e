"""`l2pd-bench compare`: parses and calls, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2pd_bench import cli_options as opt
from l2pd_bench.errors import UsageError

if TYPE_CHECKING:
    from l2pd_bench.records import Run


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run's folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another's, which is judged beside the first.")],
    margin: opt.Margin = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Show runs of unequal settings side by side, unjudged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Two runs of one setting, sample by sample; of unequal settings, the settings that differ."""
    from rich.console import Console

    from l2pd_bench.report import comparison
    from l2pd_bench.report.comparison_text import print_comparison, refuse_unequal, to_json

    found = comparison.compare(_the_run(first), _the_run(second), opt.checked_margin(margin))
    if not anyway:
        refuse_unequal(found)
    if as_json:
        print(to_json(found))
    else:
        print_comparison(found, Console())


def _the_run(folder: Path) -> Run:
    from l2pd_bench.records import load_runs

    runs = load_runs(folder, whole=False)
    if len(runs) > 1:
        few = ", ".join(str(run.folder) for run in runs[:3])
        raise UsageError(f"compare: got '{folder}' with {len(runs)} runs, expected one; name its folder: {few}, ...")
    return runs[0]
