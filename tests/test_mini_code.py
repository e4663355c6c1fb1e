"""The runner of `mini-code`: right programs pass, wrong ones fail, attacks fail with a reason."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from l2pd_bench.tasks import mini_code, mini_code_run
from l2pd_bench.tasks.mini_code import FAMILIES, Family, MiniCode
from l2pd_bench.tasks.mini_code_run import Outcome, refusal, run_tests

TEST = ["assert f(3) == 5"]

REFUSED = {
    "import os\ndef f(x):\n    return 5": "not allowed: Import",
    "from os import system\ndef f(x):\n    return 5": "not allowed: ImportFrom",
    "def f(x):\n    return __import__('os')": "not allowed: name __import__",
    "def f(x):\n    return ().__class__": "not allowed: Attribute __class__",
    "def f(x):\n    return f.__globals__": "not allowed: Attribute __globals__",
    "def f(x):\n    return x.append": "not allowed: Attribute append",
    "def f(x):\n    x.append = 5": "not allowed: Attribute append",
    "def f(x):\n    return open('/etc/passwd')": "not allowed: name open",
    "def f(x):\n    return exec('x = 5')": "not allowed: name exec",
    "def f(x):\n    return eval('5')": "not allowed: name eval",
    "def f(x):\n    return exit()": "not allowed: name exit",
    "def f(x):\n    return getattr(x, 'real')": "not allowed: name getattr",
    "def f(x):\n    print('0' * 32)\n    return 4": "not allowed: name print",
    "def f(x):\n    raise SystemExit": "not allowed: Raise",
    "import sys\ndef f(x):\n    sys.exit()": "not allowed: Import",
    "def f(x):\n    return f'{x}'": "not allowed: JoinedStr",
    "def f(x):\n    return '{0.__class__}'.format(x)": "not allowed: Attribute format",
    "def f(x):\n    return (lambda: 5)()": "not allowed: Lambda",
    "def f(x):\n    def g():\n        return x + 2\n    return g()": "not allowed: FunctionDef in a function",
    "class A:\n    pass": "not allowed: ClassDef",
    "def f(x):\n    global y\n    y = 5": "not allowed: Global",
    "def f(x):\n    try:\n        return 5\n    finally:\n        return 5": "not allowed: Try",
    "def f(x):\n    yield 5": "not allowed: Yield",
    "def f(x):\n    return (y := 5)": "not allowed: NamedExpr",
    "def f(x):\n    return 9 ** 9 ** 9": "not allowed: Pow",
    "def f(x):\n    return 1 << 99999": "not allowed: LShift",
    "def f(x):\n    return 1000000": "not allowed: Constant 1000000",
    "def f(x):\n    return 5.0": "not allowed: Constant 5.0",
    "def f(x):\n    return b'5'": "not allowed: Constant b'5'",
    f"def f(x):\n    return '{'a' * 201}'": f"not allowed: Constant {'a' * 40}",
    "def f(x, y=[]):\n    return 5": "not allowed: arguments other than plain ones",
    "def f(*x):\n    return 5": "not allowed: arguments other than plain ones",
    "def f(x, /):\n    return 5": "not allowed: arguments other than plain ones",
    "def f(x: int):\n    return 5": "not allowed: annotation",
    "def f(x) -> int:\n    return 5": "not allowed: annotation",
    "@len\ndef f(x):\n    return 5": "not allowed: decorator",
    "def f(x):\n    return max(*x)": "not allowed: Starred",
    "def f(x):\n    return sorted(x, key=len)": "not allowed: keyword",
    "def f(x):\n    len = 5\n    return len": "not allowed: another meaning for len",
    "def len(x):\n    return 5": "not allowed: another meaning for len",
    "def f(_x):\n    return 5": "not allowed: name _x",
    "f = 5": "not allowed: Assign outside a function",
    "def f(x):\n    return '\\n'": "not allowed: text '\\\\'",
    "def f(é):\n    return 5": "not allowed: text 'é'",
    "def f(x):\n    return 1if x else 5": "not allowed: text '1if'",
    "def f(x):\n    return 5\n" + "\n" * 2000: "not allowed: more than 2000 characters",
    "def f(x)\n    return 5": "not Python: expected ':' (<unknown>, line 1)",
    "return 5": "not allowed: Return outside a function",
    "def f(x):\n    return " + "(" * 900: "not Python: too many nested parentheses (<unknown>, line 2)",
}

FAILING = {
    "": "NameError: name 'f' is not defined",
    "def g(x):\n    return 5": "NameError: name 'f' is not defined",
    "def f(x):\n    return 4": "AssertionError: assert f(3) == 5",
    "def f():\n    return 5": "TypeError: f() takes 0 positional arguments but 1 was given",
    "def f(x):\n    return x + []": "TypeError: unsupported operand type(s) for +: 'int' and 'list'",
    "def f(x):\n    break": "SyntaxError: 'break' outside loop (program, line 2)",
    "def f(x):\n    return f(x)": "RecursionError: maximum recursion depth exceeded",
    "def f(x):\n    return [0] * 999999 * 999999": "MemoryError",
    "def f(x):\n    a = [0]\n    while True:\n        a += a": "MemoryError",
    "def f(x):\n    return '%999999999d' % x": "MemoryError",
}

ENDLESS = (
    "def f(x):\n    while True:\n        x = x",
    "def f(x):\n    return sum(range(999999 * 999999))",
)

BREAK_OUT = """
def f(x):
    kinds = [().__class__.__base__]
    for kind in kinds:
        kinds.extend(kind.__class__.__subclasses__(kind))
    return [kind for kind in kinds if kind.__name__ == 'FileIO'][0]('/etc/passwd').read()
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the runner starts: the keyword arguments of each process, and its `pid`."""
    calls: list[dict[str, Any]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            calls.append({**kwargs, "pid": self.pid})

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return calls


def is_gone(pid: int) -> bool:
    """Whether neither the process nor any of its group is left, not even as a zombie."""
    for ask in (os.kill, os.killpg):
        try:
            ask(pid, 0)
        except ProcessLookupError:
            continue
        return False
    return True


def one_off(program: str) -> list[str]:
    """The program with one of its constants, each in turn, one higher wherever it stands."""
    constants = sorted(set(re.findall(r"\d+", program)), key=int)
    return [re.sub(rf"\b{constant}\b", str(int(constant) + 1), program) for constant in constants]


def holds_here(program: str, tests: list[str]) -> bool:
    """Whether a trusted program passes, found without the runner."""
    space: dict[str, Any] = {}
    exec(program, space)
    try:
        for test in tests:
            exec(test, space)
    except (AssertionError, ValueError):
        return False
    return True


def test_every_reference_passes() -> None:
    """The reference of each of 300 items passes its own tests."""
    items = [MiniCode().draw(random.Random(seed)) for seed in range(300)]
    outcomes = {run_tests(item.reference, item.data["tests"]) for item in items}
    assert outcomes == {Outcome(True, "passed")}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.specs[0])
def test_one_off_fails(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every family a program with a constant too high by one fails, whatever the constants."""
    monkeypatch.setattr(mini_code, "FAMILIES", (family,))
    items = [MiniCode().draw(random.Random(seed)) for seed in range(150)]
    wrong = [(program, item.data["tests"]) for item in items for program in one_off(item.reference)]
    assert [program for program, tests in wrong if holds_here(program, tests)] == []
    outcomes = [run_tests(program, tests) for program, tests in wrong[:3]]
    assert all(outcome.reason.startswith("AssertionError: assert ") for outcome in outcomes)
    assert not any(outcome.passed for outcome in outcomes)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.specs[0])
def test_families_have_different_answers(family: Family) -> None:
    """No family's program passes the tests of another family with the same constants."""
    others = [other for other in FAMILIES if other is not family and other.arguments is family.arguments]
    for k in range(2, 21):
        tests = [f"assert f({v!r}) == {family.compute(v, k, k + 1)!r}" for v in mini_code.inputs_for(family, k)]
        for other in others:
            body = other.forms[0].format(a="a", i="i", k=k, m=k + 1)
            assert not holds_here(f"def f(a):\n    {body}", tests), (family.specs, other.specs, k)


@pytest.mark.parametrize("program", REFUSED, ids=list(REFUSED.values()))
def test_refused(program: str, started: list[dict[str, Any]]) -> None:
    """A program outside the allowed kinds of Python fails with a reason and is never run."""
    assert run_tests(program, TEST) == Outcome(False, REFUSED[program])
    assert started == []


@pytest.mark.parametrize("program", FAILING, ids=list(FAILING.values()))
def test_failing(program: str) -> None:
    """An allowed program that is wrong, breaks or grabs memory fails with a reason."""
    outcome = run_tests(program, TEST)
    assert not outcome.passed
    assert outcome.reason.startswith(FAILING[program])


def test_crash() -> None:
    """A program that brings the interpreter itself down fails with a reason."""
    chain = "def f(x):\n    g = [1]\n    for i in range(200000):\n        g = zip(g)\n    return list(g)"
    outcome = run_tests(chain, TEST)
    assert not outcome.passed
    assert outcome.reason.startswith(("the process died: SIGSEGV", "RecursionError: "))


@pytest.mark.parametrize("program", ENDLESS)
def test_endless(program: str, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless program times out, and neither it nor its process group is left behind."""
    monkeypatch.setattr(mini_code_run, "CPU_LIMIT_S", 1)
    assert run_tests(program, TEST) == Outcome(False, "timed out after 1 s")
    assert [is_gone(call["pid"]) for call in started] == [True]


def test_wall_clock(started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not get its processor time is still stopped, by the wall clock."""
    monkeypatch.setattr(mini_code_run, "WALL_LIMIT_S", 0.7)
    assert run_tests(ENDLESS[0], TEST) == Outcome(False, "timed out after 0.7 s")
    assert [is_gone(call["pid"]) for call in started] == [True]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os", "ImportError: __import__ not found"),
        ("open('/etc/passwd')", "NameError: name 'open' is not defined"),
        ("print('ready')", "NameError: name 'print' is not defined"),
        ("token", "NameError: name 'token' is not defined"),
        ("raise SystemExit", "NameError: name 'SystemExit' is not defined"),
        ("x = 9 ** 9 ** 9", "timed out after 1 s"),
        (BREAK_OUT, "OSError: [Errno 24] Too many open files: '/etc/passwd'"),
    ],
)
def test_second_wall(program: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the first wall there are still no imports, no builtins, no files and no time."""
    monkeypatch.setattr(mini_code_run, "refusal", lambda program: None)
    monkeypatch.setattr(mini_code_run, "CPU_LIMIT_S", 1)
    assert run_tests(program, TEST) == Outcome(False, reason)


def test_process_is_bare(started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a program has none of our environment or folders, and a session of its own."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert run_tests("def f(x):\n    return x + 2", TEST) == Outcome(True, "passed")
    (call,) = started
    assert (call["env"], call["cwd"], call["start_new_session"]) == ({}, "/", True)
    assert "preexec_fn" not in call
    assert is_gone(call["pid"])


def test_other_right_forms_pass() -> None:
    """Right programs in other words than the references' are allowed."""
    programs = (
        "def f(xs):\n    i = 0\n    while i < len(xs):\n        xs[i] += 1\n        i += 1\n    return xs",
        "def f(xs):\n    # the 1st idea\n    return list(x + 1 for x in xs)",
        "def g(x):\n    'One more.'\n    return x + 1\n\ndef f(xs):\n    return [g(x) for x in xs]\n",
        "def f(xs):\n\tout = []\n\tfor i, x in enumerate(xs):\n\t\tout.append(x + 1)\n\treturn out",
    )
    assert {run_tests(program, ["assert f([1, 2]) == [2, 3]"]).reason for program in programs} == {"passed"}


def test_from_threads() -> None:
    """Several threads may run programs at once."""
    items = [MiniCode().draw(random.Random(seed)) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        passed = list(pool.map(lambda item: run_tests(item.reference, item.data["tests"]).passed, items))
    assert passed == [True] * 24


def test_parser_does_not_warn() -> None:
    """Reading a bad program prints no warning of the parser on the user's terminal."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for program in [*REFUSED, "def f(x):\n    return 0xfor x in 1or 2"]:
            assert refusal(program) is not None
    assert caught == []


def test_no_tests_is_an_error() -> None:
    """Running a program without any test is refused, since every program would pass."""
    with pytest.raises(ValueError, match="expected at least one"):
        run_tests("def f(x):\n    return 5", [])


def test_broken_python_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that does not start is an error of the machine, not a failed answer."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="/bin/false could not be started"):
        run_tests("def f(x):\n    return 5", TEST)
