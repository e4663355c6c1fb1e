"""The answers of `mini-code`: right programs pass, wrong ones fail, others than the allowed are never run."""

from __future__ import annotations

import random
import re
import warnings
from typing import Any

import pytest

from l2pd_bench import sandbox
from l2pd_bench.grading import Grader
from l2pd_bench.tasks import mini_code
from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.mini_code import FAMILIES, Family, MiniCode
from l2pd_bench.tasks.mini_code_rules import refusal

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
    "def f(x):\n    return 4": "AssertionError (tests, line 1: assert f(3) == 5)",
    "def f():\n    return 5": "TypeError: f() takes 0 positional arguments but 1 was given",
    "def f(x):\n    return x + []": "TypeError: unsupported operand type(s) for +: 'int' and 'list'",
    "def f(x):\n    break": "SyntaxError: 'break' outside loop (<program>, line 2)",
    "def f(x):\n    return f(x)": "RecursionError: maximum recursion depth exceeded",
    "def f(x):\n    return [0] * 999999 * 999999": "out of memory",
    "def f(x):\n    a = [0]\n    while True:\n        a += a": "out of memory",
    "def f(x):\n    return '%999999999d' % x": "out of memory",
    "def f(x):\n    while True:\n        x = x": "timed out",
    "def f(x):\n    return sum(range(999999 * 999999))": "timed out",
}

LIMITS = sandbox.Limits(cpu_s=1)


def passes(program: str, tests: list[str]) -> bool:
    """Whether an answer is right."""
    task = MiniCode()
    return Grader([task]).grade(task, Item("", "", "", {"tests": tests}), program).correct


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
    """The reference of each of 100 items passes its own tests."""
    items = [MiniCode().draw(random.Random(seed)) for seed in range(100)]
    assert [item.reference for item in items if not passes(item.reference, item.data["tests"])] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.specs[0])
def test_one_off_fails(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every family a program with a constant too high by one fails, whatever the constants."""
    monkeypatch.setattr(mini_code, "FAMILIES", (family,))
    items = [MiniCode().draw(random.Random(seed)) for seed in range(150)]
    wrong = [(program, item.data["tests"]) for item in items for program in one_off(item.reference)]
    assert [program for program, tests in wrong if holds_here(program, tests)] == []
    assert not any(passes(program, tests) for program, tests in wrong[:3])


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
def test_refused(program: str) -> None:
    """A program outside the allowed kinds of Python is refused with a reason, and graded without being run."""
    assert refusal(program) == REFUSED[program]
    assert MiniCode().grade(Item("", "", "", {"tests": TEST}), program) == Verdict(program, 0.0)


@pytest.mark.parametrize("program", FAILING, ids=list(FAILING.values()))
def test_failing(program: str) -> None:
    """An allowed program that is wrong, breaks, grabs memory or never ends fails with a reason."""
    assert refusal(program) is None
    outcome = sandbox.bare().run(program, TEST[0], LIMITS)
    assert not outcome.passed
    assert outcome.reason.startswith(FAILING[program])


def test_other_right_forms_pass() -> None:
    """Right programs in other words than the references' are allowed."""
    programs = (
        "def f(xs):\n    i = 0\n    while i < len(xs):\n        xs[i] += 1\n        i += 1\n    return xs",
        "def f(xs):\n    # the 1st idea\n    return list(x + 1 for x in xs)",
        "def g(x):\n    'One more.'\n    return x + 1\n\ndef f(xs):\n    return [g(x) for x in xs]\n",
        "def f(xs):\n\tout = []\n\tfor i, x in enumerate(xs):\n\t\tout.append(x + 1)\n\treturn out",
    )
    assert all(passes(program, ["assert f([1, 2]) == [2, 3]"]) for program in programs)


def test_parser_does_not_warn() -> None:
    """Reading a bad program prints no warning of the parser on the user's terminal."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for program in [*REFUSED, "def f(x):\n    return 0xfor x in 1or 2"]:
            assert refusal(program) is not None
    assert caught == []
