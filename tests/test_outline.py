"""Outlines: what the source says of a class is what the class says of itself."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from importlib.metadata import EntryPoint

import pytest

from l2pd_bench import outline

BUILT_INS = [
    point
    for group in ("strategies", "tasks", "hosts")
    for point in importlib.metadata.entry_points(group=f"l2pd_bench.{group}")
    if point.dist and point.dist.name == "l2pd-bench"
]


@pytest.mark.parametrize("point", BUILT_INS, ids=lambda point: point.value)
def test_built_ins_are_described_by_their_source(point: EntryPoint) -> None:
    """Every built-in is written so plainly that a listing need not import it."""
    thing = point.load()
    source = inspect.getsource(sys.modules[point.module])
    assert outline.of_source(source, point.attr) == outline.of_object(thing)


@pytest.mark.parametrize(
    "source",
    [
        "x = 1",
        "@dataclass\nclass Toy(Other): ...",
        "@dataclass\nclass Toy:\n    tau: float = 1 / 3",
        "@dataclass\nclass Toy:\n    tau: Number = 1",
        "@dataclass\nclass Toy:\n    tau: float = field(default=1.0)",
    ],
)
def test_sources_that_do_not_say_it_plainly(source: str) -> None:
    """Inherited fields, computed defaults and types by another name need the class itself."""
    assert outline.of_source(source, "Toy") is None
