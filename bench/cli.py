"""The command line: parses and calls, nothing else.

Everything heavy is imported inside the commands, so that `--help` and `list` are instant.
"""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from l2pd_bench import __version__
from l2pd_bench.cli_filter import filter_app
from l2pd_bench.errors import BenchError, UsageError

app = typer.Typer(
    help="The referee for decoding strategies of diffusion language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
mini_app = typer.Typer(help="Remake the embedded model and its test sets.", no_args_is_help=True)
app.add_typer(mini_app, name="mini")
app.add_typer(filter_app, name="filter")


class Format(StrEnum):
    """What a report can be written as."""

    rich = "rich"
    markdown = "markdown"
    csv = "csv"
    json = "json"


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
    strategy: Annotated[
        list[str] | None, typer.Option(help="NAME, NAME:key=value,..., ./file.py:Class or package.module:Class.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task's name.")] = None,
    model: Annotated[str | None, typer.Option(help="The diffusion model to decode with. [default: mini]")] = None,
    cache: Annotated[list[str] | None, typer.Option(help="KV cache: none, prefix, dual. [default: none]")] = None,
    eot: Annotated[list[str] | None, typer.Option(help="EoT policy: decode, stop, predict. [default: decode]")] = None,
    gen_length: Annotated[list[int] | None, typer.Option(help="Masks to fill. [default: the task's]")] = None,
    block_length: Annotated[int | None, typer.Option(help="Masks of one block. [default: 32]")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Samples decoded together. [default: 1]")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [default: 0]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn. [default: 0]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many items of each task.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if there is one]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. [default: float32]")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder of records. [default: runs]")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Set existing records of this run aside.")] = False,
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
        "device": device,
        "dtype": dtype,
        "output": output,
    }
    plan = make_plan(suite, {name: value for name, value in options.items() if value is not None})
    words = shlex.join(["l2pd-bench", *(word for word in sys.argv[1:] if word != "--restart")])
    command = words.encode("utf-8", "replace").decode()  # a word that is no text cannot stand in a record
    outcome = execute(plan, command=command, restart=restart)
    _show(outcome.folders)
    if outcome.message:
        print(outcome.message, file=sys.stderr)
    raise typer.Exit(outcome.exit_code)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="A folder of records, or one run's folder.")] = Path("runs"),
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.rich,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Make the leaderboard from records."""
    from l2pd_bench.records import load_runs
    from l2pd_bench.report import RENDERERS
    from l2pd_bench.report.model import make_board

    board = make_board(load_runs(results))
    if format is Format.rich:
        if output is not None:
            raise UsageError(
                "output: 'rich' is for the terminal; choose --format markdown, csv or json to write a file"
            )
        _print_board(board)
        return
    text = RENDERERS[format.value](board)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"output: {output} cannot be written ({error.strerror}); choose another file") from error


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


@app.command()
def bench(
    what: Annotated[
        str, typer.Argument(help="engine: the loop's own cost, and what caches and batches gain.")
    ] = "engine",
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """How fast the harness itself is, on the embedded model: ratios of one interleaved run."""
    from l2pd_bench import benchmark

    figures = benchmark.measure(what, rounds)
    print(benchmark.as_json(figures) if as_json else benchmark.as_text(figures))


@mini_app.command("train")
def mini_train(
    model: Annotated[str, typer.Option(help="diffusion (the host) or causal (its companion).")] = "diffusion",
    work: Annotated[Path, typer.Option(help="Folder for checkpoint and log; an interrupted run resumes.")] = Path(
        "mini-work"
    ),
    steps: Annotated[int | None, typer.Option(help="Optimizer steps. [default: the recipe's]")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    compile_model: Annotated[bool, typer.Option("--compile", help="torch.compile: faster, needs a C++ compiler.")] = (
        False
    ),
) -> None:
    """Train an embedded model from nothing; the result is WORK/NAME.safetensors."""
    from l2pd_bench.mini import remake

    print(f"written: {remake(model, work, steps=steps, device=device, compile_model=compile_model)}")


@mini_app.command("data")
def mini_data(
    folder: Annotated[Path, typer.Option(help="Where to write the test sets, one .jsonl for each task.")] = Path(),
) -> None:
    """Write the test sets of the mini tasks from their generators."""
    from l2pd_bench.mini import write_test_sets

    for path in write_test_sets(folder):
        print(f"written: {path}")


def _show(folders: list[Path]) -> None:
    from l2pd_bench.records import read_run
    from l2pd_bench.report.model import make_board

    _print_board(make_board([run for folder in folders if (run := read_run(folder)) is not None]))


def _print_board(board: object) -> None:
    from rich.console import Console

    from l2pd_bench.report import print_board

    print_board(board, Console())  # type: ignore[arg-type]
