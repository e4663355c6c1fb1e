"""Attacks on the sandbox at each level, as root and as an ordinary user: none succeeds, none harms the harness."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sandbox_attacks
from sandbox_attacks import DISK, FORGERIES, HARMLESS, HARNESS, MEMORY, PROCESSES, TIME, faults

from l2pd_bench import sandbox_linux

NOBODY = 65534
REFUSED = (
    r"(PermissionError|FileNotFoundError|ProcessLookupError|OSError: \[Errno 30\]|AssertionError(: \[Errno 1\].*)?$)"
)
SETTINGS = [(level, user) for level in ("bwrap", "landlock") for user in ("root", "ordinary user")]


@cache
def foreign_python() -> str | None:
    """An interpreter of our version or later that user `nobody` can run, or None."""
    for python in (sandbox_linux.interpreter(), shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        if python is not None:
            check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            with suppress(OSError):
                if subprocess.run(check, user=NOBODY, group=NOBODY, cwd="/", capture_output=True).returncode == 0:
                    return python
    return None


class Harness:
    """Runs `sandbox_attacks.py` at a level, as a user."""

    def __init__(self, level: str, user: str, folder: Path) -> None:
        if user == "root" and os.getuid() != 0:
            pytest.skip("root: these tests run as an ordinary user")
        if level != "bare" and faults()[level]:
            pytest.skip(f"{level}: {faults()[level]}")
        python: str | None = sandbox_linux.interpreter()
        self.identity: dict[str, Any] = {}
        if user != "root" and os.getuid() == 0:
            python = foreign_python()
            if python is None:
                pytest.skip("an ordinary user: no interpreter that it may run")
            self.identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        assert python is not None
        self.command = [python, str(folder / "sandbox_attacks.py"), level]
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "SECRET": "in the environment"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the script, with its output in a pipe."""
        return subprocess.Popen(
            [*self.command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=self.environment,
            start_new_session=True,
            **self.identity,
        )


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the sandbox that everybody may read."""
    folder = Path(tempfile.mkdtemp())  # not below pytest's own folder, which is closed to other users
    package = folder / "l2pd_bench"
    package.mkdir()
    source = Path(sandbox_linux.__file__).resolve().parent
    for name in (
        "__init__.py",
        "errors.py",
        "sandbox.py",
        "sandbox_process.py",
        "sandbox_child.py",
        "sandbox_linux.py",
    ):
        shutil.copyfile(source / name, package / name)
    shutil.copyfile(sandbox_attacks.__file__, folder / "sandbox_attacks.py")
    for path in (folder, package, *folder.rglob("*.py")):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What came of the attacks, by level and user: filled when first asked for."""
    return {}


def attack(level: str, user: str, folder: Path, seen: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """What came of the attacks at a level as a user."""
    if (level, user) not in seen:
        process = Harness(level, user, folder).start()
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors  # a harness that was killed is not unharmed
        seen[level, user] = json.loads(output)
    return seen[level, user]


Seen = dict[tuple[str, str], dict[str, Any]]


@pytest.mark.parametrize("name", HARMLESS)
def test_the_attacks_are_real(name: str, folder: Path, seen: Seen) -> None:
    """Without walls the harmless ones among the attacks succeed, so that their failure means something."""
    came = attack("bare", "ordinary user", folder, seen)

    assert came["outcomes"][name][0], came["outcomes"][name]
    assert len(came["harm"]) == 4


@pytest.mark.parametrize(("level", "user"), SETTINGS)
@pytest.mark.parametrize("name", [*HARMLESS, *PROCESSES, *DISK, *HARNESS])
def test_nothing_outside_is_reached(level: str, user: str, name: str, folder: Path, seen: Seen) -> None:
    """Network, files, processes, disk, and the harness are out of reach, each refused by the system."""
    passed, reason, _ = attack(level, user, folder, seen)["outcomes"][name]

    assert not passed
    assert re.match(REFUSED, reason)


@pytest.mark.parametrize(("level", "user"), SETTINGS)
@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_limited(level: str, user: str, name: str, folder: Path, seen: Seen) -> None:
    """No more memory than the limit, in whatever way, and the limit cannot be raised."""
    passed, reason, _ = attack(level, user, folder, seen)["outcomes"][name]

    assert not passed
    assert re.match(r"out of memory|OSError: \[Errno 12\]|ValueError: not allowed to raise", reason)


@pytest.mark.parametrize(("level", "user"), SETTINGS)
@pytest.mark.parametrize("name", TIME)
def test_time_is_limited(level: str, user: str, name: str, folder: Path, seen: Seen) -> None:
    """A program that works or waits for too long is ended, whatever signals it ignores."""
    passed, reason, seconds = attack(level, user, folder, seen)["outcomes"][name]

    assert not passed
    assert re.match(r"timed out after (0.5 s|10 s|1 s of processor time)|the process died: SIGKILL", reason)
    assert seconds < 12


@pytest.mark.parametrize(("level", "user"), SETTINGS)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_pass_is_not_forged(level: str, user: str, name: str, folder: Path, seen: Seen) -> None:
    """A program whose tests fail does not pass, whatever it does to its process and its pipes."""
    passed, reason, seconds = attack(level, user, folder, seen)["outcomes"][name]

    assert not passed and seconds < 9
    if name == "find the seal":
        assert reason == "LookupError: no seal within reach"


@pytest.mark.parametrize(("level", "user"), SETTINGS)
def test_the_harness_is_unharmed(level: str, user: str, folder: Path, seen: Seen) -> None:
    """After all attacks the harness is alive, nobody has called, and its files are as they were."""
    assert attack(level, user, folder, seen)["harm"] == []


@pytest.mark.parametrize(("level", "user"), SETTINGS)
@pytest.mark.parametrize("threads", ["main", "threads"])
@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_nothing_outlives_the_harness(level: str, user: str, threads: str, end: str, folder: Path) -> None:
    """Killed or interrupted, the harness takes all sandboxed processes with it, also those of its threads."""
    with running(Harness(level, user, folder), threads) as (process, below):
        assert len(below) >= (2 if threads == "threads" else 1)
        assert all(alive(one) for one in below)

        process.send_signal(signal.Signals[end])

        assert process.wait(timeout=10) != 0
        assert_gone(below)


@contextmanager
def running(harness: Harness, threads: str) -> Iterator[tuple[subprocess.Popen[str], set[tuple[int, str]]]]:
    """A harness whose programs sleep, and the processes below it."""
    with harness.start(threads) as process:
        below: set[tuple[int, str]] = set()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            deadline = time.monotonic() + 20
            wanted = 2 if threads == "threads" else 1
            while sum("judge(" in command(one[0]) for one in below) < wanted and time.monotonic() < deadline:
                time.sleep(0.02)
                below = descendants(process.pid)
            time.sleep(0.2)  # for them to close the doors and begin to sleep
            below = descendants(process.pid)
            yield process, below
        finally:
            process.kill()
            for one in filter(alive, below):
                os.kill(one[0], signal.SIGKILL)


def processes() -> dict[int, tuple[int, str, str]]:
    """Of every process: its parent, its state, and when it was started."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            found[int(path.parent.name)] = (int(fields[1]), fields[0], fields[19])
    return found


def descendants(root: int) -> set[tuple[int, str]]:
    """The processes below one: their ids, and when they were started."""
    all_processes, below = processes(), {root}
    while True:
        more = {pid for pid, (parent, _, _) in all_processes.items() if parent in below} - below
        if not more:
            return {(pid, all_processes[pid][2]) for pid in below - {root}}
        below |= more


def alive(process: tuple[int, str]) -> bool:
    """Whether it is that process, and not a dead one nobody has waited for."""
    _, state, started = processes().get(process[0], (0, "Z", ""))
    return state != "Z" and started == process[1]


def assert_gone(below: set[tuple[int, str]]) -> None:
    """Wait a moment, and see that none is left."""
    deadline = time.monotonic() + 5
    while any(alive(one) for one in below) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert [one for one in below if alive(one)] == []


def command(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
