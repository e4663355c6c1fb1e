"""`l2pd-bench check`: whether a strategy keeps its contract, and if not, what to change and where.

Loads the strategy, has it examined and shows what was found. How good it is, is not asked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from time import perf_counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from l2pd_bench.conformance import Check, Status, examine
from l2pd_bench.errors import UsageError
from l2pd_bench.probe import where_raised
from l2pd_bench.registry import load_strategy
from l2pd_bench.specs import parse, show
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.sweep import knob_fault

STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim", "info": "cyan"}


@dataclass(frozen=True)
class Report:
    """All rows, and how long they took."""

    strategy: str
    checks: list[Check]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings do not count."""
        return all(check.status != "fail" for check in self.checks)


def check(text: str) -> Report:
    """Try the strategy that `text` describes, in any form that `run` takes.

    Raises UsageError if there is no such strategy; whatever else goes wrong is in the report.
    """
    began = perf_counter()
    try:
        strategy, spec = load_strategy(text)
    except Exception as error:  # a stranger's code: whatever it raises is the finding
        is_default = isinstance(error.__cause__, ValueError) and not parse(text, "strategy").params
        if isinstance(error, UsageError) and not is_default:
            raise  # nothing of that name, or values that its author did not choose
        found = str(error) if error.__cause__ else f"{type(error).__name__}: {error}"
        row = Check("builds", "fail", f"{found}; it must build from its defaults", where_raised(error, None))
        return Report(text, [row], perf_counter() - began)
    params = ", ".join(f"{key}={value}" for key, value in spec.params.items()) or "no parameters"
    origin = spec.distribution if spec.version is None else f"{spec.distribution} {spec.version}"
    rows = [Check("builds", "pass", f"{params}; from {origin}"), _knob(text, strategy), *examine(strategy)]
    return Report(spec.spec, rows, perf_counter() - began)


def _knob(text: str, strategy: Strategy) -> Check:
    """Whether the speed knob names a parameter, and the strategy takes its values; one may do without."""
    if strategy.knob is None:
        return Check("knob", "info", "none declared: `sweep` has to be told --values, or there is nothing to trade")
    if fault := knob_fault(text):
        return Check("knob", "fail", f"{fault}; name one of its parameters, and values that it takes")
    values = ", ".join(map(show, strategy.knob.values))
    return Check("knob", "pass", f"`sweep` tries {strategy.knob.parameter} at {values}")


def print_report(report: Report, console: Console) -> None:
    """A table of the checks: pass or fail, the reason, and the line to look at."""
    table = Table(title=f"check {report.strategy}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for row in report.checks:
        found = Text(row.detail)
        if row.where and row.status != "pass":
            found.append(f"\n-> {row.where}", style="bold")
        table.add_row(row.name, Text(row.status, style=STYLES[row.status]), found)
    console.print(table)
    counts = [f"{n} {word}" for word in STYLES if (n := sum(row.status == word for row in report.checks))]
    console.print(f"{', '.join(counts)}; {report.seconds:.1f} s", highlight=False)


def as_json(report: Report) -> str:
    """The report for programs."""
    return json.dumps({"ok": report.ok, **asdict(report)}, indent=2)
