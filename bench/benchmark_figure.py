"""What a benchmark found: figures with their spread and their target, as text and as JSON.

Mostly ratios: seconds on a shared machine mean little, ratios taken side by side mean something.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from l2pd_bench.measure import environment, git_state


@dataclass(frozen=True)
class Figure:
    """One number: its rounds, and what it should be (`at_most` or `at_least`)."""

    name: str
    rounds: list[float]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.rounds)

    @property
    def verdict(self) -> str:
        """Whether the median meets the target."""
        if self.at_most is not None:
            return "met" if self.median <= self.at_most else "missed"
        if self.at_least is not None:
            return "met" if self.median >= self.at_least else "missed"
        return ""


def as_json(figures: Sequence[Figure], command: str) -> str:
    """Figures with command, machine and commit."""
    rows = [{**asdict(f), "median": f.median, "verdict": f.verdict} for f in figures]
    made_by = {"command": command, "environment": environment(), "git": git_state()}
    return json.dumps({"figures": rows, **made_by}, indent=2)


def as_text(figures: Sequence[Figure], command: str) -> str:
    """Figures as lines: median, smallest and largest of the rounds, target; then command, commit and machine."""
    lines = []
    width = max(len(f.name) for f in figures)
    for f in figures:
        target = (
            f"<= {f.at_most:g}" if f.at_most is not None else f">= {f.at_least:g}" if f.at_least is not None else ""
        )
        spread = f"{_short(f.median):>7}  [{_short(min(f.rounds))} .. {_short(max(f.rounds))}]"
        judged = f"target {target:<9} {f.verdict}" if target else ""
        lines.append(f"{f.name:<{width}}  {spread:<28} {judged}".rstrip())
    return "\n".join([*lines, "", *_made_by(command)])


def _made_by(command: str) -> list[str]:
    machine, git = environment(), git_state()
    commit = f"{git['commit'] or 'not known'}{' with changes' if git['dirty'] else ''}"
    device = ", ".join([machine["cpu"], f"{machine['cores']} cores", *machine["gpus"]])
    return [
        f"command: {command}",
        f"commit:  {commit}",
        f"machine: {device}; torch {machine['packages']['torch']}, {machine['torch_threads']} threads",
    ]


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
