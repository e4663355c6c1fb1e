"""How a decode is ended from outside: by Ctrl-C, by SIGTERM, or because its time is up.

Signals reach the main thread of a process only; in any other thread nothing is changed.
Knows nothing of what is decoded, and nothing of files.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from l2pd_bench.errors import UsageError

Result = TypeVar("Result")

GRACE_S = 10.0  # after its time is up, for Python code to be reached; then it is said that it is not
SAYING_S = 5.0  # how long to wait at the end for a message to get out
AGAIN_S = 1.0  # between further attempts, as code may hide the first one


class Stop:
    """Whether somebody asked for the end."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stoppable(ask: Callable[[], str], say: Callable[[str], None]) -> Iterator[Stop]:
    """Within it the first Ctrl-C, or SIGTERM, calls `ask`, whose answer is said; Ctrl-C after that interrupts at once.

    `ask` is called between any two instructions of the main thread: it may set flags and
    read values, and takes no lock. `say` is called in a thread of its own.
    """
    stop, told = Stop(), threading.Event()

    def tell(text: str) -> None:
        try:
            say(text)
        finally:  # also where nobody reads what is said
            told.set()

    def on_signal(number: int, _: FrameType | None) -> None:
        if not stop.requested:
            stop.requested = True
            _thread.start_new_thread(tell, (ask(),))  # `Thread` takes locks that this thread may hold
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        # A signal that is ignored (as in a shell's background job), or is not Python's to handle, stays so.
        known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in known.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, on_signal)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.requested:
            told.wait(SAYING_S)


class Overtime(BaseException):  # no error, nor an Exception: code that catches those lets it pass
    """The time is up."""


def check_limit(seconds: float | None) -> None:
    """Raise UsageError for a time limit where none can be kept."""
    if seconds is not None and threading.current_thread() is not threading.main_thread():
        raise UsageError("timeout: got a run outside of the main thread, which no signal reaches; leave timeout out")


def at_most(seconds: float | None, doing: str, call: Callable[[], Result]) -> Result:
    """What `call` returns; raises Overtime out of it after that many seconds (None: never), in the main thread.

    Only Python code can be left so. A call that does not come back (a kernel that hangs, a
    device that is gone) goes on, and that is said, with the line that called; but not of
    one that does not let go of Python's lock.
    """
    if seconds is None:
        return call()
    is_on = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if is_on:
            raise Overtime

    watch = threading.Timer(seconds + GRACE_S, _tell_stuck, (doing, seconds + GRACE_S, threading.get_ident()))
    watch.daemon = True
    watch.start()
    before = signal.signal(signal.SIGALRM, ring)
    try:  # all in this frame: in a context manager's own calls it could ring where nothing would end it
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
        return call()
    finally:
        is_on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        watch.cancel()


def _tell_stuck(doing: str, seconds: float, thread: int) -> None:
    frame = sys._current_frames().get(thread)  # the only way to another thread's frames
    place = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}" if frame else "an unknown line"
    sys.stderr.write(
        f"{doing}: for {seconds:g} s without an end, in a call that cannot be interrupted ({place}); end this process "
        "with `kill -9`, and repeat the command without this row: what is recorded is kept\n"
    )
