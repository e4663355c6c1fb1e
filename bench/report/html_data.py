"""A board as the HTML page takes it: texts as columns write them, and the numbers behind them to sort and draw by.

Knows nothing of samples and traces (`html_samples.py`), nor of how it is packed and shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from l2pd_bench.records import Run
from l2pd_bench.report import frontier_table
from l2pd_bench.report.board import Board, Row, Section
from l2pd_bench.report.columns import (
    BEST_LEGEND,
    COLUMNS,
    NOT_DEPLOYABLE,
    NOT_DEPLOYABLE_LEGEND,
    STRATEGY,
    STRATEGY_LEGEND,
    Column,
    best,
    name,
    shown,
)
from l2pd_bench.stats import Interval


def board_data(board: Board, cap: int | None, traced: Sequence[tuple[int, int]]) -> object:
    """All but samples and traces.

    `cap`: characters that are kept of a text; `traced`: items with traces, in the page and in all, by section.
    """
    legend = [
        ("bold", BEST_LEGEND),
        (STRATEGY, STRATEGY_LEGEND),
        (NOT_DEPLOYABLE, NOT_DEPLOYABLE_LEGEND),
        *((column.title, column.legend) for column in COLUMNS),
        *frontier_table.legend([section.frontier for section in board.sections]),
    ]
    sections = [_section(section, counts) for section, counts in zip(board.sections, traced, strict=True)]
    return {
        "notes": board.notes,
        "legend": legend,
        "strategy": {"title": STRATEGY, "under": "", "legend": STRATEGY_LEGEND, "words": True, "numeric": False},
        "knob": frontier_table.TITLE,
        "curves": [c.title for c in frontier_table.CURVE_COLUMNS],
        "cap": cap,
        "sections": sections,
    }


def _section(section: Section, traced: tuple[int, int]) -> object:
    columns = shown(section)
    winners = [best(section, column) for column in columns]
    return {
        "title": section.title,
        "task": section.task,
        "setting": [(key, _plain(value)) for key, value in section.protocol.items()],
        "remarks": section.remarks,
        "columns": [
            {
                "title": c.title,
                "under": c.under,
                "legend": c.legend,
                "group": c.group,
                "highest": c.highest,
                "words": c.is_words,
                "numeric": any(number(c, row) is not None for row in section.rows),
            }
            for c in columns
        ],
        "rows": [
            {
                **_row(row, one_machine=section.one_machine),
                "cells": [
                    (c.text(row), c.detail(row), number(c, row), index in winning)
                    for c, winning in zip(columns, winners, strict=True)
                ],
            }
            for index, row in enumerate(section.rows)
        ],
        "frontier": _frontier(section),
        "origins": _origins(section),
        "traced": traced,
    }


def number(column: Column, row: Row) -> float | None:
    """What a cell is sorted by: the column's value where it has one, else the number that its text begins with."""
    if column.value is not None:
        return column.value(row)
    found = re.match(r"[+-]?[0-9]+(\.[0-9]+)?", column.text(row))
    return float(found[0]) if found else None


def _row(row: Row, *, one_machine: bool) -> dict[str, object]:
    manifest = row.run.manifest
    tps = (row.tps, _ends(row.tps_interval)) if one_machine else (None, None)  # of several machines none is drawn
    return {
        "name": name(row),
        "spec": row.spec,
        "folder": str(row.run.folder),
        "command": manifest.command,
        "status": manifest.status,
        "baseline": row.is_baseline,
        "deployable": row.deployable,
        "derived": row.derived,
        "invalid": row.invalid,
        "accuracy": (row.accuracy, _ends(row.accuracy_interval)),
        "tps": tps,
        "tpf": (row.tpf, _ends(row.tpf_interval)),
    }


def _frontier(section: Section) -> object:
    found = section.frontier
    if found is None:
        return None
    places = {id(row.run): index for index, row in enumerate(section.rows)}

    def indices(rows: Sequence[Row]) -> list[int]:
        return [places[id(row.run)] for row in rows]

    curves = [
        {
            "name": curve.name,
            "knob": curve.knob,
            "rows": indices(curve.rows),
            "cells": [c.text(curve) for c in frontier_table.CURVE_COLUMNS],
        }
        for curve in found.curves
    ]
    return {"tps": indices(found.by_tps), "tpf": indices(found.by_tpf), "curves": curves}


def _origins(section: Section) -> list[object]:
    """What the rows were made with, and by which commands; rows of one machine, commit and command together."""
    groups: dict[str, tuple[Run, list[str]]] = {}
    for row in section.rows:
        if not row.derived:
            manifest = row.run.manifest
            key = json.dumps([manifest.environment, manifest.git.commit, manifest.git.dirty, manifest.command])
            groups.setdefault(key, (row.run, []))[1].append(row.spec)
    return [
        {"specs": specs, "facts": [("command", run.manifest.command), ("commit", _commit(run)), *_environment(run)]}
        for run, specs in groups.values()
    ]


def _commit(run: Run) -> str:
    git = run.manifest.git
    if git.commit is None:
        return "not known"
    return f"{git.commit}, with changes that are not committed" if git.dirty else git.commit


def _environment(run: Run) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _plain(value)) for key, value in run.manifest.environment.items()]


def _plain(value: object) -> str:
    """A value of a record in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return (interval.low, interval.high) if interval else None
