"""Which items of a task a run decodes: all, the first, some by name, or some drawn once and for all."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from l2pd_bench.errors import BenchError, PluginError, UsageError
from l2pd_bench.tasks.base import Item, Task


def choose_items(
    task: Task, *, limit: int | None = None, ids: Sequence[str] = (), subset: int | None = None
) -> list[Item]:
    """A task's items, in its order; of `limit`, `ids` and `subset` one at most.

    `limit`: the first so many. `ids`: those with these doc_ids, of which the part behind the
    last slash will do. `subset`: so many whose doc_ids have the lowest SHA-256, so that a
    larger subset holds a smaller one. Raises UsageError for ids that no item has.
    """
    items = _read(task)
    if ids:
        return _named(task, items, ids)
    if subset is not None:
        lowest = sorted(items, key=lambda item: hashlib.sha256(item.doc_id.encode()).digest())[:subset]
        chosen = {item.doc_id for item in lowest}
        return [item for item in items if item.doc_id in chosen]
    return items[:limit]


def _read(task: Task) -> list[Item]:
    """A task's items; a PluginError if it cannot give them, or names two alike."""
    try:
        items = list(task.items())
    except BenchError:
        raise
    except Exception as error:
        raise PluginError(f"task '{task.name}': its items cannot be read: {type(error).__name__}: {error}") from error
    [(doc_id, count)] = Counter(item.doc_id for item in items).most_common(1) or [("", 0)]
    if count > 1:
        raise PluginError(f"task '{task.name}': got the doc_id '{doc_id}' twice, expected each once")
    return items


def _named(task: Task, items: Sequence[Item], ids: Sequence[str]) -> list[Item]:
    known = {name: item.doc_id for item in items for name in (item.doc_id, item.doc_id.rpartition("/")[2])}
    for name in ids:
        if name not in known:
            near = f"'{items[0].doc_id}' to '{items[-1].doc_id}'" if items else "none at all"
            raise UsageError(f"ids: got '{name}', which no item of task '{task.name}' has; expected some of {near}")
    chosen = {known[name] for name in ids}
    return [item for item in items if item.doc_id in chosen]
