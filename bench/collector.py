"""Python's search for cyclic garbage, put off while very many objects are made that are in no cycle.

Whether they are, only who makes them knows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No search within: each would walk through all that is there, again and again as that grows."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
