"""`run --watch`: the canvas in the terminal while it is filled.

Shows a decode that is not timed: it follows the one that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import sleep

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import Host
from l2pd_bench.picture import Picture
from l2pd_bench.trace import TraceStep
from l2pd_bench.tracer import OnStep

STEP_S = 0.1  # a step stays so long, that it can be read


def require_terminal() -> None:
    """Raise UsageError where nobody can see what is shown."""
    if not sys.stderr.isatty():
        raise UsageError(
            "watch: got an error output that is no terminal, expected one to show the canvas in; leave --watch out "
            "(--trace and `l2pd-bench replay` show it later)"
        )


class Watch:
    """Shows samples on `console`, where `progress` is shown at other times."""

    def __init__(self, console: Console, progress: Progress, step_s: float = STEP_S) -> None:
        self._console, self._progress, self._step_s = console, progress, step_s

    @contextmanager
    def showing(self, title: str, gen_length: int, host: Host) -> Iterator[OnStep]:
        """Within it, the steps of a batch's first sample that are told are shown; afterwards the last one stays."""
        picture = Picture(title, gen_length, cache(lambda token: host.decode([token])))
        self._progress.stop()
        try:
            with Live(picture, console=self._console, auto_refresh=False) as live:

                def on_step(row: int, step: TraceStep) -> None:
                    if row == 0:
                        picture.apply(step)
                        live.refresh()
                        sleep(self._step_s)

                yield on_step
        finally:
            self._progress.start()
