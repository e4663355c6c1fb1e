"""Runs programs that a model wrote, in a sandbox, and says whether their tests held.

    choose().run(program, tests)   ->   Outcome(passed, reason, seconds)

Each program gets a fresh Python process which reads the interpreter, the installed
packages and the system's libraries, and nothing else; writes no file, not even a
temporary one (so that no level differs from another, and no disk is filled); starts
threads, but no process; has no network, no environment and no input; and whose output
is dropped. Processor time, wall time and memory are limited. The seed of string hashes
is fixed, so that a verdict can be repeated.

    bwrap      namespaces by bubblewrap, a system call filter, resource limits
    landlock   Landlock in place of the namespaces: the program sees which files exist
               outside, their size and their time, but cannot open, make or change one
    bare       resource limits only, and no installed packages: for programs that are
               known to be harmless. It confines nothing

A pass is a seal that the harness drew for this run and gets back. The process reads it
before the program starts, and keeps it where Python code cannot reach it; only then does
the harness send a token, which has to come back as well. So it is no pass to exit with
0, to print, to find the pipes and write to them, or to replace builtins and modules.

What remains: program and tests share one process. A program written to that end can
return objects that are equal to everything, replace what the tests call, or trace the
tests and jump over them; and with raw memory (ctypes, forged bytecode) and this file
at hand, it could find the seal. No sandbox of one process prevents that; here it
harms nothing but the program's own verdict.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from l2pd_bench.errors import BenchError, UsageError, unknown
from l2pd_bench.sandbox_process import one_line, started

LEVELS = ("bwrap", "landlock", "bare")  # the best first
ATTEMPTS = 3  # for a program whose process is killed from outside
GRACE_S = 1.0  # for a process that has said its last word to end by itself
PROGRAM_BYTES = 4_000_000

# A program that passes only where the doors are closed.
_PROBE = """
def refused(call, *values):
    try:
        call(*values)
    except OSError:
        return True
"""
_PROBE_TESTS = """
import os, socket
assert refused(open, "/etc/passwd"), "it reads /etc/passwd"
assert refused(open, "/tmp/l2pd-bench-probe", "w"), "it writes to /tmp"
assert refused(os.kill, os.getppid(), 0), "it sends signals"
assert refused(os.fork), "it starts processes"
assert refused(socket.socket), "it opens sockets"
"""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 * 2**20  # of address space, by the one process there is


class Outcome(NamedTuple):
    """Whether program and tests ran to their end, and if not, why (one line)."""

    passed: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class Sandbox:
    """A level of confinement; safe to use from several threads. Get one from `choose` or `bare`."""

    level: str

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise unknown("sandbox", self.level, LEVELS)

    def run(self, program: str, tests: str = "", limits: Limits | None = None) -> Outcome:
        """Run an untrusted program, then trusted tests in its namespace.

        Whatever the program does is an Outcome. A process that does not even start, or is
        killed from outside whenever it is tried, is not the program's fault and raises BenchError.
        """
        return self._run(program, tests, limits or Limits(), stop=None)

    def run_all(
        self,
        jobs: Sequence[tuple[str, str]],
        limits: Limits | None = None,
        workers: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Outcome]:
        """Run many (program, tests) at the same time; the outcomes are in the order of `jobs`.

        `progress` is told how many are done. By default one worker for each processor.
        """
        from concurrent.futures import ThreadPoolExecutor, as_completed  # slow to import

        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        stop, stopper = os.pipe()
        try:
            with ThreadPoolExecutor(workers or processors) as pool:
                try:
                    futures = [pool.submit(self._run, *job, limits or Limits(), stop) for job in jobs]
                    for done, future in enumerate(as_completed(futures), 1):
                        future.result()
                        if progress is not None:
                            progress(done)
                except BaseException:  # Ctrl-C as well: no program may run on
                    os.write(stopper, b"stop")
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            os.close(stop)
            os.close(stopper)
        return [future.result() for future in futures]

    def _run(self, program: str, tests: str, limits: Limits, stop: int | None) -> Outcome:
        text = program.encode("utf-8", "surrogatepass")
        if len(text) > PROGRAM_BYTES:
            return Outcome(False, f"the program is too long: {len(text)} bytes, at most {PROGRAM_BYTES}", 0.0)
        for _ in range(ATTEMPTS):
            outcome, killed = self._attempt(text, tests.encode("utf-8", "surrogatepass"), limits, stop)
            if not killed:
                return outcome
        if killed > 0:
            return outcome  # bubblewrap's word for it, with which a program can leave, too: so it did, every time
        raise BenchError(
            f"sandbox {self.level}: {ATTEMPTS} processes for one program were killed from outside, expected them to "
            "live (is memory short? bare programs can also kill themselves); mend that, and repeat the command"
        )

    def _attempt(self, text: bytes, tests: bytes, limits: Limits, stop: int | None) -> tuple[Outcome, int]:
        """What came of one process; with its exit status, if that tells of a SIGKILL that no limit explains, or 0."""
        seal, token = os.urandom(16).hex().encode(), os.urandom(16).hex().encode()
        with started(self.level, cpu_s=limits.cpu_s, memory_bytes=limits.memory_bytes, stop=stop) as process:
            begin = time.monotonic()
            deadline = begin + limits.wall_s
            process.send(text)
            process.send(tests)
            process.write(seal)
            verdict = process.read(seal, deadline)
            passed = False
            if verdict == seal:
                process.write(token)
                verdict = process.read(token, deadline)
                passed = verdict == token
            seconds = time.monotonic() - begin
            ended = verdict is not None and process.wait(GRACE_S)
        if passed:
            return Outcome(True, "passed", seconds), 0
        if verdict is None:
            return Outcome(False, f"timed out after {limits.wall_s:g} s", seconds), 0
        status = process.popen.wait() if ended else None
        # Bubblewrap does not tell what its child has used. Who ignores SIGXCPU is killed a second later.
        is_late = max(process.cpu_s, seconds if self.level == "bwrap" else 0.0) >= limits.cpu_s
        outcome = Outcome(False, one_line(verdict) or _ending(status, limits, is_late=is_late), seconds)
        return outcome, 0 if status is None or is_late or _number(status) != signal.SIGKILL else status


def _number(status: int) -> int:
    """The signal that ended a process, as bubblewrap tells it of its child, too."""
    return -status if status < 0 else status - 128


def _ending(status: int | None, limits: Limits, *, is_late: bool) -> str:
    """How a process ended that said nothing."""
    if status is None:
        return "ended without a verdict: it closed the pipe"
    number = _number(status)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and is_late):
        return f"timed out after {limits.cpu_s} s of processor time"
    with suppress(ValueError):
        return f"the process died: {signal.Signals(number).name}"
    return f"ended without a verdict: exit {status}"


def probe() -> dict[str, str]:
    """Why each level does not work on this machine; an empty reason if it does."""
    return {level: _fault(level) for level in LEVELS}


def choose(*, level: str | None = None, unsafe: bool = False) -> Sandbox:
    """The best level that works here, or the one asked for; "bare" only if `unsafe`."""
    if level is not None and level not in LEVELS:
        raise unknown("sandbox", level, LEVELS)
    if level == "bare" and not unsafe:
        raise UsageError(
            "sandbox: got 'bare', which confines nothing, expected 'bwrap' or 'landlock'; "
            "to run what a model wrote with all your rights, add --unsafe-code"
        )
    wanted = [level] if level else [name for name in LEVELS if name != "bare" or unsafe]
    faults = []
    for name in wanted:
        fault = _fault(name)
        if not fault:
            return Sandbox(name)
        faults.append(f"{name}: {fault}")
    raise UsageError(
        f"sandbox: got none that works on this machine ({'; '.join(faults)}), expected one for what a model wrote; "
        "install bubblewrap, use a kernel with Landlock, or add --unsafe-code to run programs with all your rights"
    )


def bare() -> Sandbox:
    """The level that confines nothing, for programs that a task knows to be harmless."""
    return Sandbox("bare")


def _fault(level: str) -> str:
    """Why a level does not work here, or nothing: it is tried on a program that attacks it."""
    if sys.platform == "win32" or (sys.platform != "linux" and level != "bare"):
        return f"not on {sys.platform}"
    try:
        outcome = Sandbox(level).run(_PROBE, "" if level == "bare" else _PROBE_TESTS)
    except BenchError as failure:
        return str(failure).removeprefix(f"sandbox {level}: ")
    return "" if outcome.passed else outcome.reason
