"""Finds the file of one of lm-eval's tasks by its text.

lm-eval's own way parses all of its 14,000 files first, which takes 16 s.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_NAMED = re.compile(r"""^["']?task["']?:[ \t]*["']?([^\s"'#\[\]{}]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)


@cache
def find_task(name: str) -> Path | None:
    """The file of a task."""
    likely = sorted(_root().rglob(f"{name}.yaml")) if re.fullmatch(r"[\w.+-]+", name) else []
    return _tasks_in(likely).get(name) or known_tasks().get(name)


@cache
def known_tasks() -> dict[str, Path]:
    """All of lm-eval's tasks: their names, with their files."""
    return _tasks_in(sorted(_root().rglob("*.yaml")))


def _root() -> Path:
    found = importlib.util.find_spec("lm_eval")
    assert found is not None and found.submodule_search_locations, "lm-eval is a dependency"
    return Path(found.submodule_search_locations[0]) / "tasks"


def _tasks_in(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        for name in _NAMED.findall(path.read_text("utf-8")):
            found.setdefault(name, path)  # the first of two, as in lm-eval
    return found
