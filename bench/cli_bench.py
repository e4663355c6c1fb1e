"""`l2pd-bench bench`: parses and calls."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from l2pd_bench import cli_options as opt
from l2pd_bench.errors import UsageError

_WHAT = """\
engine: the loop's own cost, the floor, caches, batches. straightforward: against a loop in the manner of published \
code. select: strategies. records: writing and continuing. startup. loading: a checkpoint's memory. report: large \
folders. ray: a second worker. counts: operators, memory, host reads, which --check compares. all: the quick ones."""


def bench(
    what: Annotated[str, typer.Argument(help=_WHAT)] = "engine",
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    model: Annotated[str | None, typer.Option(help="As for `run`. [default: mini]")] = None,
    weights: Annotated[str | None, typer.Option(help="`random`: a shape without a checkpoint.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda. [default: cpu]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16.")] = None,
    attention: opt.Attention = None,
    prompt_length: Annotated[int | None, typer.Option(help="Of random prompts. [default: real ones]")] = None,
    gen_length: Annotated[int | None, typer.Option(help="[default: 128]")] = None,
    block_length: Annotated[int | None, typer.Option(help="[default: 32]")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="May be repeated. [default: 1, 16]")] = None,
    cache: Annotated[list[str] | None, typer.Option(help="May be repeated. [default: the benchmark's]")] = None,
    check: Annotated[bool, typer.Option("--check", help="counts: exit 1 if any is more than accepted.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="counts: take them as the accepted ones.")] = False,
) -> None:
    """How fast the harness itself is: ratios of one interleaved run, with spread and target; and counts."""
    sizes = {
        **{"model": model, "weights": weights, "device": device, "dtype": dtype, "attention": attention},
        **{"prompt_length": prompt_length, "gen_length": gen_length, "block_length": block_length},
        **{"batch_sizes": tuple(batch_size or ()) or None, "caches": tuple(cache or ()) or None},
    }
    from l2pd_bench.benchmark_setup import Setup

    setup = Setup(**{name: value for name, value in sizes.items() if value is not None})  # type: ignore[arg-type]
    if what == "counts":
        if setup.changed:
            raise UsageError(f"bench: got --{setup.changed[0]} for counts, expected none; what they are of is fixed")
        _counts(as_json=as_json, check=check, accept=accept)
        return
    if check or accept:
        raise UsageError(f"bench: got --{'check' if check else 'accept'} for {what}, expected it for counts only")
    from l2pd_bench import benchmark
    from l2pd_bench.benchmark_figure import as_json as to_json
    from l2pd_bench.benchmark_figure import as_text

    figures = benchmark.measure(what, rounds, setup)
    command = shlex.join(["l2pd-bench", *sys.argv[1:]])
    print(to_json(figures, command) if as_json else as_text(figures, command))


def _counts(*, as_json: bool, check: bool, accept: bool) -> None:
    from l2pd_bench import benchmark_counts

    found = benchmark_counts.measure_counts()
    if accept:
        path = Path(__file__).resolve().with_name(benchmark_counts.BASELINE)
        benchmark_counts.accept(found, path)
        print(f"accepted: {path}")
        return
    print(json.dumps(found, indent=1) if as_json else benchmark_counts.as_text(found))
    if check:
        compared = benchmark_counts.compare(benchmark_counts.read_baseline(), found)
        typer.echo(compared.message, err=True)
        raise typer.Exit(1 if compared.worse else 0)
