"""A comparison of two runs on a terminal and as JSON; what it says is `comparison.py`'s affair."""

from __future__ import annotations

import json

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from l2pd_bench.errors import UsageError
from l2pd_bench.report.board import Row
from l2pd_bench.report.columns import COLUMNS, MISSING, SIDE_BY_SIDE
from l2pd_bench.report.comparison import Comparison
from l2pd_bench.specs import Scalar, show
from l2pd_bench.stats import Interval


def refuse_unequal(comparison: Comparison) -> None:
    """Raise UsageError for runs of unequal settings, with the settings that differ."""
    if comparison.differing:
        pairs = "; ".join(f"{key}: {show(a)} | {show(b)}" for key, (a, b) in comparison.differing.items())
        raise UsageError(
            f"compare: got runs of unequal settings ({pairs}), expected the same; a difference between them would not "
            "be the strategy's. Decode both in one setting, or add --anyway to see them side by side, unjudged"
        )


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Write the comparison to `console`."""
    first, second = comparison.rows
    if comparison.differing:
        console.print(
            _plain("NOT COMPARABLE: the settings differ, so no difference below is the strategy's", "bold red")
        )
        console.print(_settings(comparison))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in ("", f"A: {first.spec}", f"B: {second.spec}"):
        table.add_column(_plain(title), justify="left" if not title else "right", overflow="fold")
    for column in COLUMNS:
        if column.title in SIDE_BY_SIDE:
            table.add_row(column.title, *(_cell(column.text(row), column.detail(row)) for row in comparison.rows))
    lines = [_plain(line) for line in _lines(comparison)]
    console.print(Group(table, _plain(""), *lines, *(_plain(f"- {remark}") for remark in comparison.remarks)))


def to_json(comparison: Comparison) -> str:
    """Everything about the comparison, numbers as computed."""
    speedup, delta, verdict = comparison.speedup, comparison.delta, comparison.verdict
    document = {
        "runs": [_identity(row) for row in comparison.rows],
        "differing_settings": comparison.differing,
        "comparable": not comparison.differing,
        "speedup": speedup and {"value": speedup.value, "interval": speedup.interval, "pairs": speedup.pairs},
        "delta": delta and {**delta._asdict(), "compared": delta.compared._asdict()},
        "agreement_share": comparison.agreement_share,
        "verdict": verdict and verdict._asdict(),
        "remarks": comparison.remarks,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)


def _identity(row: Row) -> dict[str, Scalar]:
    manifest = row.run.manifest
    return {
        "run_id": manifest.run_id,
        "strategy": row.spec,
        "folder": str(row.run.folder),
        "protocol_hash": manifest.protocol_hash,
        "samples": len(row.run.samples),
        "accuracy_percent": row.accuracy,
        "tps": row.tps,
        "tpf": row.tpf,
    }


def _lines(comparison: Comparison) -> list[str]:
    """B beside A, in sentences."""
    told = []
    if comparison.verdict:
        told.append(f"B beside A: {comparison.verdict.text}")
    if speedup := comparison.speedup:
        told.append(f"speedup {speedup.value:.2f}x{_range(speedup.interval, 2)}, over {speedup.pairs} samples")
    if (delta := comparison.delta) and delta.p is not None:
        pairs, only_b, only_a = delta.compared
        told.append(
            f"accuracy {delta.points:+.1f} points{_range(delta.interval, 1)}: right only in B {only_b}, only in A "
            f"{only_a}, of {pairs}; McNemar's p {delta.p:.3g}"
        )
    if comparison.agreement_share is not None:
        told.append(f"equal answer texts: {100 * comparison.agreement_share:.1f} %")
    return told


def _range(interval: Interval | None, places: int) -> str:
    return f" (95 %: {interval.low:.{places}f} to {interval.high:.{places}f})" if interval else ""


def _settings(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in ("setting that differs", "A", "B"):
        table.add_column(title, overflow="fold")
    for key, pair in comparison.differing.items():
        table.add_row(_plain(key), *(_plain(show(value)) for value in pair))
    return table


def _cell(text: str, detail: str) -> Text:
    return Text(f"{text} ({detail})" if detail and text != MISSING else text)


def _plain(content: str, style: str = "") -> Text:
    """Text from a record: never markup, never a control sequence."""
    return Text("".join(c if c.isprintable() else "?" for c in content), style=style)
