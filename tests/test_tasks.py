"""What holds for every registered task whose items come with a package; other tasks have tests of their own."""

from __future__ import annotations

import pytest

from l2pd_bench.errors import UsageError
from l2pd_bench.grading import Grader
from l2pd_bench.registry import catalog, load_task

OWN = [entry for entry in catalog("tasks") if entry.distribution == "l2pd-bench"]
NAMES = [e.name for e in OWN if e.name == "humaneval" or "data_dir" not in {p.name for p in e.parameters}]


@pytest.mark.parametrize("name", NAMES)
def test_references(name: str) -> None:
    """Every item has an id of its own, and a reference that its own grader accepts."""
    task = load_task(name)
    items = task.items()
    try:
        grader = Grader([task])
    except UsageError as error:
        pytest.skip(str(error))

    assert len({item.doc_id for item in items}) == len(items) > 0
    assert [item.doc_id for item in items[:100] if not grader.grade(task, item, item.reference).correct] == []


@pytest.mark.parametrize("name", NAMES)
def test_data_hash(name: str) -> None:
    """The data hash is a SHA-256, the same whenever it is asked for."""
    one, two = load_task(name).data_hash, load_task(name).data_hash
    assert one == two and len(one) == 64
