"""One exception tree; its messages are for the person at the terminal.

    BenchError                  anything the user can act on; shown without a traceback
    ├── UsageError              a wrong request: unknown name, bad value (exit code 2)
    ├── PluginError             a strategy, task or host that breaks its contract
    └── RecordError             results that cannot be read or written

A message says what was got, what was expected and what to do:
`cache: got 'daul', expected one of none, prefix, dual; did you mean 'dual'?`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """A failure the user can act on; the message is shown without a traceback."""

    exit_code = 1


class UsageError(BenchError):
    """The request itself is wrong."""

    exit_code = 2


class PluginError(BenchError):
    """A strategy, task or host broke its contract."""


class RecordError(BenchError):
    """Results could not be read or written."""


def unknown(what: str, got: str, allowed: Iterable[str]) -> UsageError:
    """The error for a name nobody knows: lists the known ones and the nearest."""
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return UsageError(f"{what}: got '{got}', expected one of {', '.join(names) or '(none)'}{hint}")
