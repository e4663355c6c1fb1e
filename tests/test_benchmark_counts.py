"""Counts of operators, memory and host reads: what is seen, and that none grew."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from l2pd_bench import benchmark_counts as counts
from l2pd_bench import cli
from l2pd_bench.benchmark_meter import metered
from l2pd_bench.benchmark_setup import Setup
from l2pd_bench.errors import RecordError
from l2pd_bench.hosts.mini import MiniHost


def assign(x: Tensor) -> None:
    """By a mask."""
    x[x > 1] = torch.tensor([0.5, 0.5])


READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x[0] > 1),
    "if": lambda x: 1 if x.any() else 0,
    "int": lambda x: int(x[1]),
    "float": lambda x: float(x[1]),
    "a tensor as an index of a list": lambda x: [7, 8, 9][x.argmax()],
    "format": lambda x: f"{x[0]:.2f}",
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "where without values": lambda x: torch.where(x > 1),
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: x.unique(),
    "index by a mask": lambda x: x[x > 1],
    "assign by a mask": assign,
    "topk of a tensor": lambda x: x.topk(x.argmin() + 1),
}
SILENT: dict[str, Callable[[Tensor], Any]] = {
    "where": lambda x: torch.where(x > 1, x, 0),
    "masked_fill": lambda x: x.masked_fill(x > 1, 0),
    "gather": lambda x: x.gather(0, x.argsort()),
    "slices and lists": lambda x: x[1:][[0, 1]],
    "assign by a list": lambda x: x.__setitem__([0, 1], 3.0),
    "shape": lambda x: x.shape[0] + len(x) + x.numel(),
}


@pytest.mark.parametrize("kind", READS)
def test_every_kind_of_read_is_seen(kind: str) -> None:
    """Whatever makes the host wait for the device counts as one read."""
    x = torch.tensor([1.0, 2.0, 3.0])
    with torch.inference_mode(), metered(9) as meter:
        READS[kind](x)
    assert meter.reads.total() == 1, meter.reads


@pytest.mark.parametrize("kind", SILENT)
def test_what_stays_on_the_device_is_no_read(kind: str) -> None:
    """Masks, indices and shapes that the host knows are no reads."""
    x = torch.tensor([1.0, 2.0, 3.0])
    with torch.inference_mode(), metered(9) as meter:
        SILENT[kind](x)
    assert not meter.reads


def test_new_memory() -> None:
    """New storage counts once and whole; views and work in place are free."""
    x = torch.zeros(10, 4)
    with torch.inference_mode(), metered(9) as meter:
        y = x + 1  # 160 bytes
        y.add_(x).view(-1)[3:].t()
        torch.empty(5, dtype=torch.int64)  # 40 bytes
        y.topk(2)  # 10 x 2 values and as many int64 indices
        torch.empty_strided((2,), (4,))  # 8 bytes are its own, 20 are taken
    assert meter.new_bytes == 160 + 40 + 80 + 160 + 20


def test_logit_rows() -> None:
    """A product as wide as the vocabulary makes a logit row for each of its rows, whatever batch they are in."""
    weight = torch.zeros(9, 4)
    with torch.inference_mode(), metered(9) as meter:
        torch.nn.functional.linear(torch.zeros(2, 5, 4), weight)
        torch.zeros(3, 4) @ weight.T
        torch.zeros(2, 4) @ torch.zeros(4, 8)
    assert meter.logit_rows == 2 * 5 + 3


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The counts of this tree."""
    return counts.measure_counts()


def test_nothing_grew(found: dict[str, Any]) -> None:
    """No count is more than what is accepted: this is how CI sees a hot path that became slower."""
    compared = counts.compare(counts.read_baseline(), found)
    assert not compared.worse, compared.message


def test_closed_forms(found: dict[str, Any], mini: MiniHost) -> None:
    """Fixed-step on whole canvases: forwards, positions, FLOPs and logits are what the sizes say."""
    lengths = [len(p) for p in Setup().prompts(mini, max(counts.PROMPTS.values()))]
    steps = counts.GEN // 8  # of k=8
    config = mini.model.config
    for batch, prompts in counts.PROMPTS.items():
        columns = [length + counts.GEN for length in lengths[:prompts]]
        cell = found["cells"][f"fixed-step:k=8, cache none, EoT decode, batch {batch}"]
        assert (cell["full"], cell["window"]) == (steps * prompts, 0)
        assert cell["forwards"] == steps * -(-prompts // batch)
        assert cell["positions"] == steps * sum(columns)
        assert cell["logit_rows"] == steps * prompts * counts.BLOCK
        assert cell["flops"] == sum(steps * config.flops(n, n, counts.BLOCK) for n in columns)


def test_one_read_per_forward(found: dict[str, Any]) -> None:
    """Under every cache, EoT policy and batch size the host reads once per forward."""
    assert all(cell["host_reads"] == cell["forwards"] for cell in found["cells"].values())


CELLS = {"a": {"forwards": 4, "host_reads": 4, "operators": 100, "new_bytes": 1000}}


def change(**values: int) -> dict[str, Any]:
    """Counts in which some differ."""
    return {"torch": "2.0", "cells": {"a": {**CELLS["a"], **values}}}


def test_comparison() -> None:
    """A count that grew is worse, one that fell is better, and both are told with the way to accept them."""
    compared = counts.compare(change(), change(host_reads=5, operators=90))

    assert [(c.what, c.accepted, c.found) for c in compared.worse] == [("host_reads", 4, 5)]
    assert [(c.what, c.accepted, c.found) for c in compared.better] == [("operators", 100, 90)]
    assert "more: a: host_reads 4 -> 5 (+25.0%)" in compared.message
    assert "less: a: operators 100 -> 90 (-10.0%)" in compared.message
    assert "bench counts --accept" in compared.message
    assert counts.compare(change(), change()).message == "all counts are the accepted ones"


def test_another_torch() -> None:
    """Operators and memory are compared within one release of torch only, and it is said that they are not."""
    other = {**change(operators=900, new_bytes=9000), "torch": "2.1"}
    compared = counts.compare(change(), other)
    assert not compared.worse and "not compared" in compared.message and "operators, new_bytes" in compared.message
    assert counts.compare(change(), {**change(forwards=5), "torch": "2.1"}).worse


@pytest.mark.parametrize("cells", [{}, {"b": CELLS["a"]}, {"a": {"forwards": 4}}])
def test_other_cells_are_an_error(cells: dict[str, Any]) -> None:
    """A matrix that is not the accepted one cannot be judged, and is no success."""
    with pytest.raises(RecordError, match="--accept"):
        counts.compare(change(), {"torch": "2.0", "cells": cells})


def test_accepted_counts_are_read_back(tmp_path: Path, found: dict[str, Any]) -> None:
    """What is accepted is what is compared with, one line for each cell."""
    path = tmp_path / "baseline.json"
    counts.accept(found, path)
    assert json.loads(path.read_text()) == found
    assert len(path.read_text().splitlines()) == len(found["cells"]) + 5
    assert set(found["cells"]) == set(counts.read_baseline()["cells"])


@pytest.mark.parametrize(("more", "code"), [(1, 1), (0, 0), (-1, 0)])
def test_check_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: int, code: int
) -> None:
    """`bench counts --check` ends with 1 if any count grew, with 0 otherwise, and says which."""
    changed = copy.deepcopy(counts.read_baseline())
    cell = next(iter(changed["cells"].values()))
    cell["host_reads"] += more
    monkeypatch.setattr(counts, "measure_counts", lambda: changed)
    monkeypatch.setattr(sys, "argv", ["l2pd-bench", "bench", "counts", "--check", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == code
    assert json.loads(shown.out) == changed
    assert ("host_reads" in shown.err) == (more != 0)
