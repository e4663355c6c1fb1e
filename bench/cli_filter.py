"""`l2pd-bench filter ...`: parses and calls, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

filter_app = typer.Typer(help="Collect records for a Learn2PD filter, train one, evaluate one.", no_args_is_help=True)


@filter_app.command("collect")
def filter_collect(
    output: Annotated[Path, typer.Option(help="The collection's folder.")],
    task: Annotated[
        list[str] | None, typer.Option(help="A task: its training pool where it has one, else its test items.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help='A file of JSON lines, each with a "prompt".')] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the items of real tasks are.")] = None,
    model: Annotated[str | None, typer.Option(help="The diffusion model. [default: mini]")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub: branch, tag or commit.")] = None,
    limit: Annotated[int | None, typer.Option(help="Prompts of each task, and of the file. [default: 128]")] = None,
    gen_length: Annotated[int | None, typer.Option(help="Masks to fill. [default: 128]")] = None,
    block_length: Annotated[int | None, typer.Option(help="Masks of one block. [default: 32]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts decoded together; 4 suits a CPU. [default: 4]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the prompts drawn from training pools. [default: 0]")] = None,
    eot: Annotated[
        str | None,
        typer.Option(help="decode: the reference in full. stop: up to its EoT, which is faster. [default: decode]"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if there is one]")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, float16. [default: float32; bfloat16 for a checkpoint on an accelerator]"
        ),
    ] = None,
    shard: Annotated[str, typer.Option(help="I/N: only every N-th batch, from the I-th on; one process each.")] = "1/1",
) -> None:
    """Record what the oracle sees.

    Every prompt is decoded by fixed-step, and then by the oracle that knows that decode.
    Repeating a command continues it: finished batches are kept.
    """
    from l2pd_bench.filters import CollectOptions, collect

    given: dict[str, Any] = {
        "task": tuple(task or ()),
        "prompts": prompts,
        "data_dir": data_dir,
        "model": model,
        "revision": revision,
        "limit": limit,
        "gen_length": gen_length,
        "block_length": block_length,
        "batch_size": batch_size,
        "seed": seed,
        "eot": eot,
        "device": device,
        "dtype": dtype,
    }
    options = CollectOptions(output=output, **{name: value for name, value in given.items() if value is not None})
    outcome = collect(options, shard)
    print(outcome.message, file=sys.stderr if outcome.exit_code else sys.stdout)
    raise typer.Exit(outcome.exit_code)


@filter_app.command("train")
def filter_train(
    folder: Annotated[Path, typer.Argument(help="A whole collection.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The filter's file, FILE.safetensors.")],
    depth: Annotated[int | None, typer.Option(help="Linear layers: 1, 2 or 4. [default: 2, the paper's]")] = None,
    masked_only: Annotated[
        bool, typer.Option("--masked-only", help="The loss leaves out committed positions.")
    ] = False,
    inputs: Annotated[str, typer.Option(help="Beyond the paper's confidences: mask, step or mask,step.")] = "",
    tau: Annotated[float | None, typer.Option(help="The acceptance to measure it at. [default: 0.96]")] = None,
    iterations: Annotated[int | None, typer.Option(help="At most; it stops early. [default: 8000]")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Iterations without a better validation loss. [default: 1000]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW. [default: 0.003]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split and of the first weights. [default: 0]")] = None,
) -> None:
    """Train a filter on a collection.

    Its figures are of prompts that training has not seen.
    """
    from rich.console import Console

    from l2pd_bench.filter_metrics import print_evaluation
    from l2pd_bench.filter_train import TrainOptions, train_filter

    given: dict[str, Any] = {
        "depth": depth,
        "masked_only": masked_only,
        "inputs": tuple(name.strip() for name in inputs.split(",") if name.strip()),
        "tau": tau,
        "iterations": iterations,
        "patience": patience,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    options = TrainOptions(**{name: value for name, value in given.items() if value is not None})
    trained = train_filter(folder, output, options)
    print_evaluation(trained.evaluation, "held out", Console())
    print(f"written: {trained.path} (the weights of iteration {trained.iteration})")


@filter_app.command("evaluate")
def filter_evaluate(
    filter_file: Annotated[Path, typer.Argument(metavar="FILTER", help="A file made by `filter train`.")],
    folder: Annotated[Path, typer.Argument(help="A whole collection.")],
    tau: Annotated[float | None, typer.Option(help="The acceptance. [default: the filter's]")] = None,
) -> None:
    """Measure a filter on a collection.

    Plain confidence thresholds are measured beside it.
    """
    from rich.console import Console

    from l2pd_bench.filter_metrics import print_evaluation
    from l2pd_bench.filter_train import evaluate

    evaluation, warning = evaluate(filter_file, folder, tau)
    if warning:
        print(f"note: {warning}", file=sys.stderr)
    print_evaluation(evaluation, str(filter_file), Console())
