"""What `l2pd-bench list` shows: everything that can be named on the command line.

Reads the registry and the cache policies; imports no model and no built-in plugin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from l2pd_bench.cache import POLICIES
from l2pd_bench.registry import Entry, Group, catalog
from l2pd_bench.specs import show

GROUPS: dict[str, Group] = {"strategies": "strategies", "tasks": "tasks", "models": "hosts"}


def rows(kind: str) -> list[dict[str, Any]]:
    """The entries of one kind, JSON-able."""
    if kind == "caches":
        return [{"name": p.name, "summary": p.summary} for p in POLICIES.values()]
    return [_row(entry) for entry in catalog(GROUPS[kind])]


def as_json(kinds: Sequence[str]) -> str:
    """All kinds as one JSON object."""
    return json.dumps({kind: rows(kind) for kind in kinds}, indent=2)


def print_lists(kinds: Sequence[str], console: Console) -> None:
    """One table for each kind; a plugin that cannot be used shows its error."""
    for kind in kinds:
        table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("name", no_wrap=True)
        table.add_column("what it is")
        if kind != "caches":
            table.add_column("from")
        for row in rows(kind):
            about = Text(row.get("error") or row["summary"], style="red" if row.get("error") else "")
            for parameter in row.get("parameters", []):
                default = "" if parameter["default"] is None else f"={parameter['default']}"
                about.append(f"\n  {parameter['name']}{default}", style="cyan")
                about.append(f"  {parameter['expected']}", style="dim")
            if knob := row.get("knob"):
                about.append(f"\n  sweep {knob['parameter']} over {', '.join(map(show, knob['values']))}", style="dim")
            origin = [row["distribution"]] if kind != "caches" else []
            table.add_row(row["name"], about, *origin)
        console.print(table)
        console.print()


def _row(entry: Entry) -> dict[str, Any]:
    parameters = [
        {"name": p.name, "default": None if p.required else show(p.default), "expected": p.expected}
        for p in entry.parameters
    ]
    return {
        "name": entry.name,
        "summary": entry.summary,
        "parameters": parameters,
        "knob": entry.knob and {"parameter": entry.knob[0], "values": list(entry.knob[1])},
        "distribution": entry.distribution,
        "version": entry.version,
        "error": entry.error,
    }
