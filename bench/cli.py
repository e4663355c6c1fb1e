"""The command line: parses and calls, nothing else.

Everything heavy is imported inside the commands, so that `--help` and `list` are instant.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from l2pd_bench import __version__
from l2pd_bench import cli_options as opt
from l2pd_bench.cli_bench import bench
from l2pd_bench.cli_compare import compare
from l2pd_bench.cli_export import export
from l2pd_bench.cli_filter import filter_app
from l2pd_bench.cli_mini import mini_app
from l2pd_bench.cli_replay import replay
from l2pd_bench.cli_report import exit_code, report, show
from l2pd_bench.cli_sweep import sweep
from l2pd_bench.errors import BenchError, UsageError

app = typer.Typer(
    help="The referee for decoding strategies of diffusion language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
app.add_typer(mini_app, name="mini")
app.add_typer(filter_app, name="filter")


class Kind(StrEnum):
    """What can be listed."""

    strategies = "strategies"
    tasks = "tasks"
    models = "models"
    caches = "caches"


def main() -> None:
    """The console script: a BenchError is one message and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no dashes still gets its table
    try:
        app()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _version(asked: bool) -> None:
    if asked:
        print(f"l2pd-bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def run(
    suite: Annotated[str | None, typer.Argument(help="A named suite; options override what it says.")] = None,
    strategy: opt.Strategies = None,
    task: opt.Tasks = None,
    model: opt.Model = None,
    cache: opt.Caches = None,
    eot: opt.EotPolicies = None,
    gen_length: opt.GenLengths = None,
    block_length: opt.BlockLength = None,
    batch_size: opt.BatchSizes = None,
    temperature: opt.Temperature = None,
    seed: opt.Seed = None,
    limit: opt.Limit = None,
    ids: opt.Ids = None,
    subset: opt.Subset = None,
    data_dir: opt.DataDir = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    revision: opt.Revision = None,
    attention: opt.Attention = None,
    weights: opt.Weights = None,
    no_fast: opt.NoFast = False,
    sandbox: opt.Sandbox = None,
    unsafe_code: opt.UnsafeCode = False,
    output: opt.Output = None,
    timeout: opt.Timeout = None,
    trace: opt.Traces = False,
    watch: opt.Watching = False,
    executor: opt.Executor = None,
    address: opt.Address = None,
    workers: opt.Workers = None,
    restart: opt.Restart = False,
    margin: opt.Margin = None,
    from_: opt.From = None,
    aa: opt.SelfTest = False,
) -> None:
    """Decode tasks with strategies, every combination of the repeatable options; then show the board.

    Repeating a command continues it: finished samples are kept.
    """
    from l2pd_bench.plan import make_plan
    from l2pd_bench.runner import execute

    options = {
        "strategy": strategy,
        "task": task,
        "model": model,
        "cache": cache,
        "eot": eot,
        "gen_length": gen_length,
        "block_length": block_length,
        "batch_size": batch_size,
        "temperature": temperature,
        "seed": seed,
        "limit": limit,
        "ids": ids,
        "subset": subset,
        "data_dir": data_dir,
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "attention": attention,
        "weights": weights,
        "fast": False if no_fast else None,
        "sandbox": sandbox,
        "unsafe_code": unsafe_code or None,
        "output": output,
        "timeout": timeout,
        "trace": trace or None,
        "watch": watch or None,
        "executor": executor,
        "address": address,
        "workers": workers,
    }
    opt.checked_margin(margin)
    given = {name: value for name, value in options.items() if value is not None}
    if from_ is not None:
        others = {name: value for name, value in (("suite", suite), ("aa", aa)) if value}
        _repeat(from_, {**others, **given}, restart=restart)
    if aa:
        _self_test(suite, given, restart=restart)
    outcome = execute(make_plan(suite, given), command=opt.command_line(sys.argv), restart=restart)
    board = show(outcome.folders, margin)
    if outcome.message:
        print(outcome.message, file=sys.stderr)
    raise typer.Exit(exit_code(board, outcome.exit_code))


def _self_test(suite: str | None, given: dict[str, Any], *, restart: bool) -> NoReturn:
    from l2pd_bench.aa import self_test
    from l2pd_bench.plan import make_plan

    recording = [name for name in ("output", "trace", "watch") if name in given] + ["restart"] * restart
    if recording:
        raise UsageError(f"aa: got --{recording[0]}, expected none, as a self-test records and shows nothing")
    if given.get("executor", "local") != "local":
        raise UsageError("aa: got --executor, expected none: a self-test is of this machine and this process")
    found = self_test(make_plan(suite, given))
    print(found.message)
    raise typer.Exit(0 if found.ok else 1)


def _repeat(folder: Path, options: dict[str, Any], *, restart: bool) -> NoReturn:
    """`run --from`."""
    from l2pd_bench.again import repeat

    repeated = repeat(folder, options, command=opt.command_line(sys.argv), restart=restart)
    board = show(repeated.outcome.folders)
    print(repeated.message)
    raise typer.Exit(exit_code(board, repeated.exit_code))


@app.command()
def score(
    results: Annotated[Path, typer.Argument(help="One run's folder, or a folder of runs.")],
    task: Annotated[
        str | None, typer.Option(help="The runs' task with another filter, NAME:filter=... [default: as recorded]")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="A folder of item files. [default: the hub's]")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder of new records. [default: that of the runs]")] = None,
    model: Annotated[str | None, typer.Option(help="To count tokens with. [default: as recorded]")] = None,
    workers: Annotated[int | None, typer.Option(help="Answers graded at once. [default: one for each core]")] = None,
    sandbox: Annotated[str | None, typer.Option(help="Of generated code: bwrap, landlock.")] = None,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run generated code also where no sandbox works.")
    ] = False,
) -> None:
    """Grade recorded answers again, without generating them again.

    The same grading only says whether every score is the same; another one is recorded beside the first.
    """
    from l2pd_bench.score import ScoreOptions
    from l2pd_bench.score import score as score_runs

    given = {"workers": workers} if workers is not None else {}
    options = ScoreOptions(
        task=task, data_dir=data_dir, output=output, model=model, sandbox=sandbox, unsafe_code=unsafe_code, **given
    )
    written: list[Path] = []
    all_agree = True
    for scored in score_runs(results, options):
        print(scored.message)
        all_agree = all_agree and (scored.folder is not None or not scored.changed)
        written += [scored.folder] if scored.folder else []
    if written:
        show(written)
    raise typer.Exit(0 if all_agree else 1)


app.command()(report)
app.command()(export)
app.command()(compare)
app.command()(replay)
app.command()(sweep)
app.command()(bench)


@app.command(name="list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; everything if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What can be run: strategies with their parameters, tasks, models, caches."""
    from l2pd_bench import listing

    kinds = [kind.value] if kind else [k.value for k in Kind]
    if as_json:
        print(listing.as_json(kinds))
        return
    from rich.console import Console

    listing.print_lists(kinds, Console())


@app.command()
def check(
    strategy: Annotated[str, typer.Argument(help="In any form that --strategy of `run` takes.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Whether a strategy keeps its contract; what fails comes with the reason and the line to look at."""
    from rich.console import Console

    from l2pd_bench import check as kit

    report = kit.check(strategy)
    if as_json:
        print(kit.as_json(report))
    else:
        kit.print_report(report, Console())
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def env() -> None:
    """What this machine is, as records store it."""
    import json

    from l2pd_bench.measure import environment, git_state

    print(json.dumps({"environment": environment(), "git": git_state()}, indent=2))
