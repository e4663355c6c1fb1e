"""Which items a run decodes."""

from __future__ import annotations

import pytest

from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.items import choose_items
from l2pd_bench.tasks.analytic import AnalyticCopy
from l2pd_bench.tasks.base import Item


class Few(AnalyticCopy):
    """Some items, named as told."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def items(self) -> list[Item]:
        """Of the names."""
        return [Item(name, "copy a", "a") for name in self.names]


def chosen(task: AnalyticCopy, **how: object) -> list[str]:
    """The doc_ids of what is chosen."""
    return [item.doc_id for item in choose_items(task, **how)]  # type: ignore[arg-type]


def test_all_and_the_first() -> None:
    """Without a choice all items come, in the task's order; a limit takes the first."""
    task = Few("t/0", "t/1", "t/2")
    assert chosen(task) == ["t/0", "t/1", "t/2"]
    assert chosen(task, limit=2) == ["t/0", "t/1"]
    assert chosen(task, limit=9) == ["t/0", "t/1", "t/2"]


def test_by_name() -> None:
    """Ids may be whole or only what stands behind the slash; the order is the task's, and twice is once."""
    task = Few("t/0", "t/1", "t/2")
    assert chosen(task, ids=["t/2", "0", "2"]) == ["t/0", "t/2"]


def test_unknown_name() -> None:
    """An id that no item has is refused, with the task and its first and last."""
    with pytest.raises(UsageError, match=r"ids: got '7', which no item of task 'analytic-copy' has.*'t/0' to 't/1'"):
        chosen(Few("t/0", "t/1"), ids=["t/1", "7"])


def test_subset() -> None:
    """A subset is always the same, in the task's order, not the first ones, and grows by adding to it."""
    task = AnalyticCopy()
    every, ten, twenty = chosen(task), chosen(task, subset=10), chosen(task, subset=20)
    assert ten == chosen(task, subset=10) == [name for name in every if name in set(ten)]
    assert (len(ten), len(twenty)) == (10, 20) and set(ten) < set(twenty)
    assert ten != every[:10]


def test_a_name_given_twice() -> None:
    """Two items of one name are the task's fault, and named."""
    with pytest.raises(PluginError, match="got the doc_id 't/1' twice"):
        choose_items(Few("t/0", "t/1", "t/1"))
