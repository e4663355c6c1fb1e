"""The options of a run, described once for every command that makes runs.

Each is a type for the signature of a command; what it means, `plan.py` says. An option
that was not given is None, so that a suite's word counts.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from l2pd_bench.errors import UsageError

Strategies = Annotated[
    list[str] | None, typer.Option(help="NAME, NAME:key=value,..., ./file.py:Class or package.module:Class.")
]
Tasks = Annotated[list[str] | None, typer.Option(help="NAME, NAME:key=value,... or lm-eval:NAME.")]
Model = Annotated[
    str | None, typer.Option(help="A registered model, a checkpoint's folder, or a repository. [default: mini]")
]
Caches = Annotated[list[str] | None, typer.Option(help="KV cache: none, prefix, dual. [default: none]")]
EotPolicies = Annotated[list[str] | None, typer.Option(help="EoT policy: decode, stop, predict. [default: decode]")]
GenLengths = Annotated[list[int] | None, typer.Option(help="Masks to fill. [default: the task's]")]
BlockLength = Annotated[int | None, typer.Option(help="Masks of one block. [default: 32]")]
BatchSizes = Annotated[list[int] | None, typer.Option(help="Samples decoded together. [default: 1]")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy. [default: 0]")]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn. [default: 0]")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many items of each task.")]
Ids = Annotated[list[str] | None, typer.Option(help="Only the items of these names, such as HumanEval/7.")]
Subset = Annotated[int | None, typer.Option(help="Only so many items, scattered, always the same.")]
DataDir = Annotated[Path | None, typer.Option(help="A folder of item files. [default: the hub's]")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: cuda if there is one]")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, float16. [default: float32; of a checkpoint on a GPU bfloat16]"),
]
Revision = Annotated[str | None, typer.Option(help="Of a repository: branch, tag or commit.")]
Attention = Annotated[
    str | None, typer.Option("--attn", help="sdpa, sdpa-flash, sdpa-graphs, ... [default: sdpa, torch chooses]")
]
Weights = Annotated[str | None, typer.Option(help="random: a model's shape without its checkpoint, to measure speed.")]
NoFast = Annotated[
    bool,
    typer.Option("--no-fast", help="Compute every forward the plain way, slowly: is it what the fast way computes?"),
]
Sandbox = Annotated[
    str | None, typer.Option(help="Of generated code: bwrap, landlock. [default: the first that works here]")
]
UnsafeCode = Annotated[bool, typer.Option("--unsafe-code", help="Run generated code also where no sandbox works.")]
Output = Annotated[Path | None, typer.Option(help="The folder of records. [default: runs]")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Repeat what a run's folder has recorded, under its settings, and compare; takes the place of all options "
        "but --output, --restart, --data-dir, --timeout, --trace, --watch, --sandbox and --unsafe-code.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that one turn (two batches; or one sample) may take; a strategy that takes longer fails its row."
    ),
]
Traces = Annotated[
    bool, typer.Option("--trace", help="Write down every step, in a second decode of each batch that is not timed.")
]
Watching = Annotated[
    bool,
    typer.Option("--watch", help="Show the canvas being filled, in a second decode of each batch: seconds stay true."),
]
Executor = Annotated[
    str | None, typer.Option(help="local, or ray: a worker on each device, here or in a cluster. [default: local]")
]
Address = Annotated[str | None, typer.Option(help="Of ray's cluster, HOST:PORT. [default: this machine alone]")]
Workers = Annotated[int | None, typer.Option(help="Ray's, at most so many. [default: one for each GPU]")]
Restart = Annotated[bool, typer.Option("--restart", help="Set existing records of this run aside.")]
SelfTest = Annotated[
    bool, typer.Option("--aa", help="Only run the one strategy against itself: is its speedup 1? Records nothing.")
]
Margin = Annotated[
    float | None, typer.Option(help="Points of accuracy that count as no loss. [default: 1]", show_default=False)
]
Plot = Annotated[Path | None, typer.Option(help="Draw accuracy over speed into this file: .svg or .png.")]


def checked_margin(margin: float | None) -> float:
    """The margin in points, the default where none is given; UsageError unless it is a share of 100 points."""
    from l2pd_bench.verdict import MARGIN

    if margin is None:
        return MARGIN
    if not 0 < margin <= 100:
        raise UsageError(f"margin: got {margin:g}, expected points of accuracy, above 0 and at most 100")
    return margin


def command_line(words: list[str]) -> str:
    """The command of these words (of `sys.argv`) as a record tells it; repeated, it continues."""
    told = shlex.join(["l2pd-bench", *(word for word in words[1:] if word != "--restart")])
    return told.encode("utf-8", "replace").decode()  # a word that is no text cannot stand in a record
