"""`l2pd-bench mini ...`: parses and calls, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

mini_app = typer.Typer(help="Remake the embedded model and its test sets.", no_args_is_help=True)


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
