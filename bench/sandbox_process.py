"""One sandboxed process, from its start to its end, and the two pipes to it.

What is sent through the pipes, and what an answer means, is `sandbox.py`'s affair.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from l2pd_bench import sandbox_linux
from l2pd_bench.errors import BenchError

START_S = 60.0  # for the interpreter to be ready; only a starved machine gets near
MESSAGE_BYTES = 4_000  # of what the process says; more is cut, and the process ended


class StoppedError(Exception):
    """The harness gave up on the whole batch."""


class Process:
    """A sandboxed process, seen from the harness: the two pipes to it and its end."""

    def __init__(self, popen: subprocess.Popen[bytes], stop: int | None) -> None:
        assert popen.stdin is not None and popen.stdout is not None
        self.popen = popen
        self.cpu_s = 0.0  # used by the time it is reaped
        self._in, self._out, self._stop = popen.stdin.fileno(), popen.stdout.fileno(), stop
        self._end: int | None = None
        with suppress(AttributeError, OSError):  # not there, or not allowed: its pipe tells, too
            self._end = os.pidfd_open(popen.pid)

    def send(self, message: bytes) -> None:
        """Write the length of a message and itself."""
        self.write(len(message).to_bytes(8, "big") + message)

    def write(self, data: bytes) -> None:
        """Write all of `data`, unless the process has ended: then what it said tells why."""
        left = memoryview(data)
        with suppress(BrokenPipeError):
            while left:
                left = left[os.write(self._in, left) :]

    def read(self, last: bytes, deadline: float) -> bytes | None:
        """What it says until that ends with `last`, it ends, or it says too much; None past the deadline."""
        output = b""
        while not output.endswith(last) and len(output) < MESSAGE_BYTES:
            ready = self._wait_for([self._out, self._end], deadline)
            if not ready:
                return None
            # Its end comes after all that it said, and the pipe may be held open by someone else.
            data = os.read(self._out, MESSAGE_BYTES) if self._out in ready else b""
            if not data:
                break
            output += data
        return output

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within that time."""
        return self._end is None or bool(self._wait_for([self._end], time.monotonic() + seconds))

    def reap(self) -> None:
        """Wait for its end, once it was killed, and keep what that tells."""
        _, status, used = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s = used.ru_utime + used.ru_stime

    def kill(self) -> None:
        """Kill its whole process group, in which nobody can be but the program and bubblewrap."""
        if self._end is not None:
            os.close(self._end)
        # The leader is not reaped yet, so the group id is still ours. macOS refuses to signal a process that has ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def _wait_for(self, descriptors: Sequence[int | None], deadline: float) -> list[int]:
        """The descriptors with something to read or at their end; none past the deadline."""
        poll = select.poll()
        for descriptor in (self._stop, *descriptors):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
        if self._stop in ready:
            raise StoppedError
        return ready


@contextmanager
def started(level: str, *, cpu_s: int, memory_bytes: int, stop: int | None) -> Iterator[Process]:
    """A process of that level, confined and ready for its program; dead afterwards.

    What is read from the descriptor `stop` ends every wait, with a StoppedError.
    """
    command = sandbox_linux.command(level)
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # for what bubblewrap or the interpreter say before the program
            bufsize=0,
            cwd="/",
            env=sandbox_linux.environment(),
            start_new_session=True,
        )
    except OSError as failure:
        raise BenchError(f"sandbox {level}: no process could be started ({failure})") from failure
    # The child dies with the thread that started it: this one, which stays until it is dead.
    with popen:
        process = Process(popen, stop)
        try:
            process.send(sandbox_linux.configuration(level, cpu_s, memory_bytes))
            said = process.read(b"ready\n", time.monotonic() + START_S)
            if said is None or not said.endswith(b"ready\n"):
                why = f"not ready after {START_S:g} s" if said is None else one_line(said) or "it ended at once"
                raise BenchError(f"sandbox {level}: a process could not be confined ({why})")
            yield process
        finally:
            process.kill()
            process.reap()


def one_line(said: bytes) -> str:
    """What an untrusted process said, fit for a terminal."""
    line = " ".join(said.decode("utf-8", "replace").split())
    return "".join(character if character.isprintable() else "?" for character in line)[:500]
