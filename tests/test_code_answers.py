"""Programs in answer texts: blocks, and what `sanitize` keeps."""

from __future__ import annotations

import ast
import random
import time
import warnings

import pytest
from lm_eval_reference import forbid_code_eval

from l2pd_bench.tasks.code_answers import extract_code, first_block, sanitize

PIECES = (
    *(
        "```",
        "```python\n",
        "```py\n",
        "``` ",
        "`",
        "\n",
        "\n\n",
        " ",
        "def f(x):\n",
        "    return x\n",
        "def",
        "import re\n",
    ),
    *("Here it is:", "python", "\r\n", "x = 1", "'''", "[DONE]", "é"),
)


def varied_texts(count: int) -> list[str]:
    """Texts of code, prose and fences."""
    rng = random.Random(7)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 8))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "is_open", "block"),
    [
        ("So:\n```python\nx = 1\n```\nDone.", False, "x = 1\n"),
        ("So:\n```python\nx = 1\n```\nDone.", True, "x = 1\n"),
        ("```python\nx = 1\n```\n```python\ny = 1\n```", False, "x = 1\n"),
        ("```python\nx = 1\n", False, "x = 1\n"),
        ("x = 1\n", False, "x = 1\n"),
        ("x = 1\n```\nDone.", False, "x = 1\n```\nDone."),
        ("x = 1\n```\nDone.", True, "x = 1\n"),
        ("\nx = 1\n", True, "\nx = 1\n"),
        ("", True, ""),
    ],
)
def test_first_block(text: str, is_open: bool, block: str) -> None:
    """The first block of Python, to its end or the text's; where the prompt has opened one, the text up to a fence."""
    assert first_block(text, is_open=is_open) == block


def test_extract_code_is_lm_evals(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 2,000 varied texts extract-code finds what the filter of lm-eval's mbpp_instruct finds."""
    forbid_code_eval(monkeypatch)
    from lm_eval.tasks.mbpp.utils import build_predictions

    texts = varied_texts(2000)
    assert [[extract_code(text) for text in texts]] == build_predictions([texts], [{}])
    assert len({extract_code(text) for text in texts}) > 100


@pytest.mark.parametrize(
    ("text", "code"),
    [("\ndef f(): pass\n```", "def f(): pass"), ("def f(): pass\n```", " f(): pass"), ("\ndef f(): pass\n", "")],
)
def test_what_extract_code_loses(text: str, code: str) -> None:
    """As in lm-eval, the first word is lost if no line end comes before it, and all if no fence comes after it."""
    assert extract_code(text) == code


PROGRAM = """
Here is the function:
import math
from os import path

LIMIT, LOW = 9, 1
unused = 3

class Helper:
    size = LIMIT

def other(x):
    return x

def show(x):
    print(x)

def part(x):
    return Helper.size + x

def f(x):
    show(x)
    return part(math.floor(x))

It works.
f(3)
"""


def test_what_sanitize_keeps() -> None:
    """Imports, what the entry point needs by way of others, and no function without a return."""
    kept = [ast.unparse(node).splitlines()[0] for node in ast.parse(sanitize(PROGRAM, "f")).body]
    assert kept == [
        "import math",
        "from os import path",
        "LIMIT, LOW = (9, 1)",
        "class Helper:",
        "def part(x):",
        "def f(x):",
    ]


@pytest.mark.parametrize(
    ("program", "kept"),
    [
        ("def f(x):\n\treturn x", "def f(x):\n    return x"),
        ("def f(x):\r\n    return x\r\n", "def f(x):\n    return x"),
        ("def f(x):\n    '''Doc.'''\n\ndef f(x):\n    return x", "def f(x):\n    return x"),
        ("def g(x):\n    return x", ""),
        ("import re\nprint(1)", "import re"),
        ("no code at all!", ""),
        ("", ""),
        ("def f(x):\n    return '\\d'", "def f(x):\n    return '\\\\d'"),
        ("x: int = 3\ndef f():\n    return x", "x: int = 3\n\ndef f():\n    return x"),
        ("def f():\n    return 1\n" + "\n" * 200 + "def f():\n    return 2", "def f():\n    return 1"),
        ("f = \0", ""),
        ("def f():\n    return 1\n(\ndef f():\n    return 2", "def f():\n    return 1"),
    ],
)
def test_sanitize(program: str, kept: str) -> None:
    """Tabs, other line ends, heads without a body, missing entry points, prose, and lines past the hundredth."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sanitize(program, "f") == kept


def test_the_longest_run_that_parses() -> None:
    """What `sanitize` looks at is the longest run of lines that parses, counted without blank ones, then the first."""
    rng = random.Random(5)
    lines = ("def f():", "    return 1", "def g():", "    return f()", "(", ")", "x = 1", "", "prose it is", "'''")
    for _ in range(150):
        text = "\n".join(rng.choices(lines, k=rng.randint(1, 12)))
        best, found = -1, ""
        parts = text.strip().split("\n")
        for i in range(len(parts)):
            for j in range(i + 1, len(parts) + 1):
                run, size = "\n".join(parts[i:j]), sum(bool(part.strip()) for part in parts[i:j])
                if size > best and parses(run):
                    best, found = size, run
        assert sanitize(text, "f") == sanitize(found, "f"), text


def parses(text: str) -> bool:
    """Whether a text is a program."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def test_sanitize_ends_soon() -> None:
    """A long text in which hardly anything parses takes seconds at most, however long it is."""
    body = "".join(f"    x{i} = [{i}, {i}, ({i})]\n" for i in range(49))
    text = f"def f():\n{body}here it ends\n{body}    return 1\n" * 50
    begin = time.perf_counter()
    sanitize(text, "f")
    assert time.perf_counter() - begin < 10
