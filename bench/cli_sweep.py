"""`sweep`: strategies at every value of their speed knobs; parses and calls, nothing else."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from l2pd_bench import cli_options as opt
from l2pd_bench.cli_report import exit_code, show


def sweep(
    strategy: opt.Strategies = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=START:STOP:STEP (both ends included) or KEY=VALUE,VALUE,...; of several strategies "
            "NAME.KEY=... [default: the knob that the strategy declares]"
        ),
    ] = None,
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
    executor: opt.Executor = None,
    address: opt.Address = None,
    workers: opt.Workers = None,
    timeout: opt.Timeout = None,
    restart: opt.Restart = False,
    margin: opt.Margin = None,
    plot: opt.Plot = None,
) -> None:
    """Run strategies at every value of their speed knobs, with the baseline; then show board, frontier and curves.

    Repeating a command continues it: finished samples are kept.
    """
    from rich.console import Console

    from l2pd_bench.plan import make_plan
    from l2pd_bench.report.figure import check_figure, write_figure
    from l2pd_bench.report.plot import print_plots
    from l2pd_bench.runner import execute
    from l2pd_bench.sweep import expand

    opt.checked_margin(margin)
    if plot is not None:
        check_figure(plot)
    swept = expand(strategy or [], values or [])
    options = {
        "strategy": swept.strategies,
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
        "timeout": timeout,
        "fast": False if no_fast else None,
        "sandbox": sandbox,
        "unsafe_code": unsafe_code or None,
        "output": output,
        "executor": executor,
        "address": address,
        "workers": workers,
    }
    plan = make_plan(None, {name: value for name, value in options.items() if value is not None})
    for note in swept.notes:
        print(f"note: {note}", file=sys.stderr)
    outcome = execute(plan, command=opt.command_line(sys.argv), restart=restart)
    board = show(outcome.folders, margin)
    print_plots(board, Console())
    if plot is not None:
        write_figure(board, plot)
    if outcome.message:
        print(outcome.message, file=sys.stderr)
    raise typer.Exit(exit_code(board, outcome.exit_code))
