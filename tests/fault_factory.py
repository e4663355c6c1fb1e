"""Runs a small plan with one fault injected, in a process of its own that is forked from a warm one.

    with Factory() as factory:
        end = factory.run(folder, Fault("os.write", 3, "kill"))

The faults are put around functions from outside: the product has no hooks for them. A run
takes a tenth of a second, so every call of every function can be the one that fails.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DISK = "os.open os.write os.pwrite os.fsync os.ftruncate os.mkdir os.replace os.rename"  # all that changes a disk
START = 1e9  # of clocks that are wrong: in 2001
WARM_ROUNDS = 2  # of a row's first batch, always
PLAN: dict[str, Any] = {
    **{"model": "analytic", "task": ["analytic-shuffle"], "strategy": ["fixed-step:k=2", "threshold:tau=0.4"]},
    **{"temperature": 1.0, "gen_length": [4], "block_length": 4, "batch_size": [1], "limit": 2},
}


@dataclass(frozen=True)
class Fault:
    """What happens at call number `at` of the functions named: the first is 1, and `times` of them in a row.

    kill          SIGKILL; a write is first done by half
    ENOSPC, ...   that OSError; a write is first done by half
    SIGINT, ...   that signal to the process itself, which goes on with the call; several of them at once
    oom           as torch's allocator fails
    clock back    the clock goes back a day with every look at it, from the beginning on
    clock stands  it says the same at every look
    """

    names: str
    at: int
    action: str
    times: int = 1


@dataclass(frozen=True)
class End:
    """How a run ended: exit code (negative: the signal that killed it), what it said, and which functions it called."""

    code: int
    said: str
    calls: list[str]  # not of a run that was killed


class Factory:
    """The warm process, and what asks it for runs."""

    def __init__(self, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({**PLAN, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, folder: Path, fault: Fault | None = None, *, restart: bool = False) -> End:
        """Run the plan into `folder` until it ends, however that is."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"folder": str(folder), "fault": asdict(fault) if fault else None, "restart": restart}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return End(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        assert self._process.returncode == 0 or kind


# ------------------------------------------------------------------ in the warm process


def serve(options: Mapping[str, Any]) -> None:
    """Load everything, then fork for every line that is read."""
    import torch

    from l2pd_bench import measure, runner, warmup
    from l2pd_bench.job import prepare_job
    from l2pd_bench.plan import make_plan

    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]  # a kill does not ask for it, and it is slow
    known = runner.git_state()
    runner.git_state = lambda: known
    measure._version = lambda _: "1"
    warmup.MOST_ROUNDS = WARM_ROUNDS
    plan = make_plan(None, options)
    job = prepare_job(plan)
    gc.freeze()  # or every run would copy what it only looks at

    def run(folder: str, restart: bool) -> int:
        outcome = runner.run_job(replace(plan, output=Path(folder)), job, command="REPEAT", restart=restart)
        sys.stderr.write(outcome.message + "\n")
        return outcome.exit_code

    for line in sys.stdin:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.dup2(writer, 2)
            _be_a_run(run, **json.loads(line))
        os.close(writer)
        with os.fdopen(reader, errors="replace") as pipe:
            said, _, calls = pipe.read().rpartition("calls:")
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps({"code": code, "said": said.strip(), "calls": calls.split()}) + "\n")
        sys.stdout.flush()


def _be_a_run(run: Callable[[str, bool], int], folder: str, fault: Mapping[str, Any] | None, restart: bool) -> None:
    from l2pd_bench.errors import BenchError

    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # the descriptor is this run's now
    injected = Injected(Fault(**fault)) if fault else None
    try:
        code = run(folder, restart)
    except BenchError as error:  # as the command line does
        sys.stderr.write(f"error: {error}\n")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:  # noqa: BLE001  # a traceback is what no fault may end in
        sys.stderr.write(f"Traceback: {error!r}\n")
        code = 70
    sys.stderr.write(f"calls: {' '.join(injected.calls) if injected else ''}\n")
    sys.stderr.flush()
    os._exit(code)


class Injected:
    """A fault, put around its functions."""

    def __init__(self, fault: Fault) -> None:
        self.calls: list[str] = []
        self._fault = fault
        if fault.action.startswith("clock"):
            _set_the_clock(86400 if fault.action == "clock back" else 0)
            return
        for name in fault.names.split():
            module, *path, last = _resolve(name)
            owner = module
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, self._around(name, getattr(owner, last)))

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        is_write = name == "os.write"

        def call(*arguments: Any, **options: Any) -> Any:
            if is_write and arguments[0] <= 2:
                return real(*arguments)  # what is said is no matter of the disk
            self.calls.append(name)
            if self._fault.at <= len(self.calls) < self._fault.at + self._fault.times:
                if is_write and (self._fault.action == "kill" or hasattr(errno, self._fault.action)):
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                self._happen(self._fault.action)
            return real(*arguments, **options)

        return call

    def _happen(self, action: str) -> None:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "oom":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        elif action.startswith("SIG"):
            for name in action.split():
                signal.raise_signal(signal.Signals[name])
        else:
            number = getattr(errno, action)
            raise OSError(number, os.strerror(number))


def _resolve(name: str) -> tuple[Any, ...]:
    """The module of a dotted name, and the rest of it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            return (import_module(".".join(parts[:length])), *parts[length:])
        except ModuleNotFoundError:
            continue
    raise ValueError(name)


def _set_the_clock(back_s: int) -> None:
    import time

    from l2pd_bench import schema, writer

    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return START - back_s * looks

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(now(), UTC)

    time.time = now
    schema.datetime = writer.datetime = Clock  # type: ignore[misc]


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
