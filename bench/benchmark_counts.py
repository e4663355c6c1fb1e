"""`l2pd-bench bench counts`: what decoding costs in counts, and whether that is more than is accepted.

A fixed small matrix on the embedded model, in float32 on the CPU: the counts are the same
on every machine, so that CI can refuse one that grew. The accepted ones are in
`benchmark_baseline.json`. Seconds are not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from l2pd_bench.benchmark_meter import metered
from l2pd_bench.benchmark_setup import Setup
from l2pd_bench.cache import POLICIES
from l2pd_bench.decode_settings import EOT_POLICIES, DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import RecordError
from l2pd_bench.hosts.base import Host
from l2pd_bench.registry import load_host, load_strategy

BASELINE = "benchmark_baseline.json"
STRATEGIES = ("fixed-step:k=8", "threshold")
PROMPTS = {1: 1, 4: 5}  # by batch size: with rows that wait for room, and rows that take it
GEN, BLOCK = 48, 16
OF_TORCH = ("operators", "new_bytes")  # these depend on its release, and are compared within one only
ACCEPT = "l2pd-bench bench counts --accept"

Counts = dict[str, int]


class Change(NamedTuple):
    """A count that is not the accepted one."""

    cell: str
    what: str
    accepted: int
    found: int

    def __str__(self) -> str:
        more = f" ({self.found / self.accepted - 1:+.1%})" if self.accepted else ""
        return f"{self.cell}: {self.what} {self.accepted} -> {self.found}{more}"


class Comparison(NamedTuple):
    """Found counts against the accepted ones."""

    worse: list[Change]
    better: list[Change]
    skipped: tuple[str, ...]  # counts that were not compared

    @property
    def message(self) -> str:
        """For a person: every change, and what to do about it."""
        lines = [f"more: {change}" for change in self.worse] + [f"less: {change}" for change in self.better]
        if self.skipped:
            lines.append(f"not compared, as the accepted ones are of another torch: {', '.join(self.skipped)}")
        if self.worse:
            lines.append(f"{len(self.worse)} counts grew: undo that, or accept it with '{ACCEPT}' and say why")
        elif self.better:
            lines.append(f"{len(self.better)} counts fell: keep it so with '{ACCEPT}'")
        else:
            lines.append("all counts are the accepted ones")
        return "\n".join(lines)


def measure_counts() -> dict[str, Any]:
    """The counts of every cell, and torch's release: what the baseline holds."""
    host = load_host("mini", device="cpu")
    prompts = Setup().prompts(host, max(PROMPTS.values()))
    cells = product(STRATEGIES, POLICIES, EOT_POLICIES, PROMPTS)
    return {
        "torch": torch.__version__.partition("+")[0],
        "cells": {f"{s}, cache {c}, EoT {e}, batch {b}": count_cell(host, prompts, s, c, e, b) for s, c, e, b in cells},
    }


def count_cell(host: Host, prompts: Sequence[list[int]], strategy: str, cache: str, eot: str, batch: int) -> Counts:
    """Sums over some prompts, of which `batch` are decoded at a time.

    `full` and `window` are each sample's own forwards, `forwards` those that the network made
    for all of them, told by its embedding.
    """
    rule, _ = load_strategy(strategy)
    settings = DecodeSettings(gen_length=GEN, block_length=BLOCK, cache=cache, eot=eot)
    mine = prompts[: PROMPTS[batch]]
    with metered(host.vocab_size) as meter:
        samples = decode(host, rule, mine, range(len(mine)), settings, slots=batch).samples
    return {
        "full": sum(s.nfe_full for s in samples),
        "window": sum(s.nfe_window for s in samples),
        "positions": sum(s.positions for s in samples),
        "flops": sum(s.flops for s in samples),
        "forwards": meter.operators["embedding"],
        "logit_rows": meter.logit_rows,
        "host_reads": meter.reads.total(),
        "operators": meter.operators.total(),
        "new_bytes": meter.new_bytes,
    }


def compare(accepted: Mapping[str, Any], found: Mapping[str, Any]) -> Comparison:
    """What grew and what fell.

    A cell or a count that only one side has is a RecordError, as nothing tells which is better.
    """
    skipped = OF_TORCH if accepted["torch"] != found["torch"] else ()
    worse: list[Change] = []
    better: list[Change] = []
    if shape(accepted) != shape(found):
        raise RecordError(f"counts: got other cells or counts than those accepted; accept them with '{ACCEPT}'")
    for cell, counts in found["cells"].items():
        for count, value in counts.items():
            before = accepted["cells"][cell][count]
            if count not in skipped and value != before:
                (worse if value > before else better).append(Change(cell, count, before, value))
    return Comparison(worse, better, skipped)


def shape(counts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of cells, and of the counts in each."""
    return {cell: sorted(values) for cell, values in counts["cells"].items()}


def read_baseline() -> dict[str, Any]:
    """What is accepted."""
    baseline: dict[str, Any] = json.loads(files("l2pd_bench").joinpath(BASELINE).read_text("utf-8"))
    return baseline


def accept(found: Mapping[str, Any], path: Path) -> None:
    """Make these the accepted counts; a line for each cell, so that a diff can be read."""
    cells = [f"  {json.dumps(cell)}: {json.dumps(counts)}" for cell, counts in found["cells"].items()]
    text = f'{{\n "torch": {json.dumps(found["torch"])},\n "cells": {{\n' + ",\n".join(cells) + "\n }\n}\n"
    path.write_text(text, encoding="utf-8")  # in place: an editable install links to it


def as_text(found: Mapping[str, Any]) -> str:
    """A line for each cell: what one step of a batch costs."""
    names: Sequence[str] = ("operators", "new_bytes", "host_reads", "logit_rows")
    width = max(map(len, found["cells"]))
    lines = [f"{'per forward of a batch':<{width}}" + "".join(f"{name:>13}" for name in ("forwards", *names))]
    for cell, counts in found["cells"].items():
        each = [f"{counts[name] / counts['forwards']:13.2f}" for name in names]
        lines.append(f"{cell:<{width}}{counts['forwards']:13}" + "".join(each))
    return "\n".join(lines)
