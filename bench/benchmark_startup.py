"""`l2pd-bench bench startup`: seconds until the command line answers, and until a run's first forward is done.

Every start is a process of its own. The run is of a strategy that ends the process as
soon as it is shown a step.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.errors import BenchError

HELP_S, LIST_S = 0.5, 1.0  # targets
SEEN = 42  # the exit code of the run that got its forward

_STRATEGY = f"""
import os
from dataclasses import dataclass
from typing import ClassVar

from l2pd_bench.strategies.base import Decision, StepView, Strategy


@dataclass(frozen=True)
class First(Strategy):
    name: ClassVar[str] = "first"

    def select(self, view: StepView) -> Decision:
        os._exit({SEEN})
"""


def measure_startup(rounds: int) -> list[Figure]:
    """All three, in turns."""
    seen: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "first.py"
        path.write_text(_STRATEGY)
        run = ["run", "--strategy", f"{path}:First", "--task", "mini-math", "--limit", "1", "--output", folder]
        commands = {"--help": (["--help"], 0), "list": (["list"], 0), "run, until its first forward": (run, SEEN)}
        for _ in range(rounds):
            for name, (words, code) in commands.items():
                seen.setdefault(name, []).append(_seconds(words, code))
    targets = {"--help": HELP_S, "list": LIST_S}
    return [Figure(f"l2pd-bench {name}, seconds", s, at_most=targets.get(name)) for name, s in seen.items()]


def _seconds(words: list[str], code: int) -> float:
    program = [sys.executable, "-c", "from l2pd_bench.cli import main; main()", *words]
    began = perf_counter()
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    elapsed_s = perf_counter() - began
    if done.returncode != code:
        said = done.stderr.strip()[-400:]
        raise BenchError(f"bench: 'l2pd-bench {' '.join(words)}' ended with {done.returncode}, expected {code}: {said}")
    return elapsed_s
