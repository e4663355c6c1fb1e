"""Items for the tests of the real tasks: the real ones where they are at hand, and invented ones of the same shape."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]

SHARED = Path(__file__).parents[2] / "shared" / "data"
FULL = os.environ.get("L2PD_BENCH_FULL") == "1"  # also what takes minutes

# What breaks a template: its own marks, other line ends, blanks at the ends, quotes, letters beyond ASCII.
ODD = (
    "{{ x }} {% if %}",
    "a\r\nb",
    " blank before",
    "blank behind ",
    'a "quote"',
    "Zoë has 5 € \u2028",
    "$\\frac{1}{2}$",
)


def data_dir() -> str:
    """The folder of real items; skips the test where there is none."""
    for folder in (os.environ.get("L2PD_BENCH_DATA"), SHARED):
        if folder and (Path(folder) / "gsm8k_test.jsonl").is_file():
            return str(folder)
    pytest.skip(f"the real items are neither in $L2PD_BENCH_DATA nor in {SHARED}")


def gsm8k_rows(count: int, seed: int) -> list[Row]:
    """Word problems with their worked answers."""
    rng = random.Random(seed)
    numbers = [
        rng.choice((str(rng.randint(-9, 999)), f"{rng.randint(1, 9)},{rng.randint(100, 999)}")) for _ in range(count)
    ]
    return [
        {"question": f"{rng.choice(ODD)} How many are {i}?", "answer": f"It is <<{i}+0={i}>>{i}.\n#### {number}"}
        for i, number in enumerate(numbers)
    ]


def math_rows(count: int) -> list[Row]:
    """Problems whose solutions end in a box."""
    boxed = (r"\frac{1}{2}", "3x+1", r"\text{Ann}", "1,000", "(1,2)", r"90^\circ", r"2\sqrt{3}")
    return [
        {
            "problem": f"{ODD[i % len(ODD)]} Find $x_{{{i}}}$.",
            "solution": f"We see that it is $\\boxed{{{boxed[i % len(boxed)]}}}$.",
        }
        for i in range(count)
    ]


def humaneval_rows(count: int) -> list[Row]:
    """Functions that add a number, as HumanEval asks for them."""
    return [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f'from math import floor\n\n\ndef plus_{i}(x):\n    """Add {i}, {{{{ so }}}}.\n\n    """\n',
            "entry_point": f"plus_{i}",
            "canonical_solution": f"    y = floor({i})\n\n    return x + y\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
        }
        for i in range(count)
    ]


def mbpp_rows() -> list[Row]:
    """Functions that add a number, as MBPP asks for them: the ten for prompts and the 500 of the test split."""
    return [
        {
            "text": f"{ODD[i % len(ODD)]} Add {i}.",
            "code": f"def plus_{i}(x):\r\n  return x + {i} ",
            "task_id": i,
            "test_setup_code": "",
            "test_list": [f"assert plus_{i}({x}) == {x + i} " for x in range(3)],
            "challenge_test_list": [],
        }
        for i in range(1, 511)
    ]


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """A JSON-lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_all(folder: Path) -> str:
    """A folder with invented items of every task."""
    write_lines(folder / "gsm8k_test.jsonl", gsm8k_rows(30, seed=1))
    write_lines(folder / "gsm8k_train.jsonl", gsm8k_rows(50, seed=2))
    write_lines(folder / "math500.jsonl", math_rows(25))
    write_lines(folder / "math_test.jsonl", math_rows(28))
    write_lines(folder / "HumanEval.jsonl", humaneval_rows(22))
    write_lines(folder / "mbpp.jsonl", mbpp_rows())
    return str(folder)


TRIVIA = [
    {"question": f"Who is {i}", "question_id": str(i), "answer": {"aliases": [f"Ann {i}", f"Bob {i}"], "value": "Ann"}}
    for i in range(4)
]
BOOLEANS = [{"input": "not True is", "target": "False"}, {"input": "not False is", "target": "True"}]


def write_lm_eval(folder: Path) -> Path:
    """A folder with invented items of some of lm-eval's tasks, in files that are named as they should be."""
    for name in ("gsm8k", "gsm8k_cot_zeroshot"):
        write_lines(folder / f"{name}_test.jsonl", gsm8k_rows(12, seed=1))
    write_lines(folder / "gsm8k_train.jsonl", gsm8k_rows(40, seed=2))
    for name in ("humaneval", "humaneval_instruct"):
        write_lines(folder / f"{name}_test.jsonl", humaneval_rows(3))
    for name in ("mbpp", "mbpp_instruct"):
        write_lines(folder / f"{name}_test.jsonl", mbpp_rows()[10:13])
    write_lines(folder / "minerva_math500_test.jsonl", math_rows(5))
    write_lines(folder / "triviaqa_validation.jsonl", TRIVIA)
    write_lines(folder / "bbh_cot_fewshot_boolean_expressions_test.jsonl", BOOLEANS)
    write_lines(folder / "wmt16-de-en_test.jsonl", [{"translation": {"en": "a", "de": "b"}}])
    return folder
