"""What holds for every registered task."""

from __future__ import annotations

import pytest

from l2pd_bench.registry import catalog, load_task

NAMES = [entry.name for entry in catalog("tasks") if entry.distribution == "l2pd-bench"]


@pytest.mark.parametrize("name", NAMES)
def test_references(name: str) -> None:
    """Every item has an id of its own, and a reference that its own grader accepts."""
    task = load_task(name)
    items = task.items()

    assert len({item.doc_id for item in items}) == len(items) > 0
    assert [item.doc_id for item in items[:100] if not task.grade(item, item.reference).correct] == []


@pytest.mark.parametrize("name", NAMES)
def test_data_hash(name: str) -> None:
    """The data hash is a SHA-256, the same whenever it is asked for."""
    one, two = load_task(name).data_hash, load_task(name).data_hash
    assert one == two and len(one) == 64
