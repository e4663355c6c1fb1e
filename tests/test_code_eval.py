"""The metric `code_eval` with our sandbox: the form and the numbers of Hugging Face's, and none of its holes."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from l2pd_bench import sandbox
from l2pd_bench.errors import UsageError

TESTS = "assert f(1) == 2"
RIGHT, WRONG = "def f(x):\n    return x + 1", "def f(x):\n    return x"


@pytest.fixture(scope="module")
def metric() -> Any:
    """Ours; programs of a metric's user are as untrusted as a model's."""
    pytest.importorskip("evaluate")
    if not any(reason == "" for level, reason in sandbox.probe().items() if level != "bare"):
        pytest.skip(f"no sandbox works here: {sandbox.probe()}")
    from l2pd_bench.code_eval import CodeEval  # with `evaluate` come many seconds of imports

    return CodeEval()


def test_scores(metric: Any) -> None:
    """pass@k is the chance that one of k programs drawn without replacement passes, by counting the draws."""
    programs = [[RIGHT, WRONG, WRONG, RIGHT, WRONG], [WRONG] * 5, [RIGHT] * 5]
    scores, outcomes = metric.compute(references=[TESTS] * 3, predictions=programs, k=[1, 2, 3, 9])

    for k in (1, 2, 3):
        draws = [[RIGHT in draw for draw in combinations(answers, k)] for answers in programs]
        assert scores[f"pass@{k}"] == pytest.approx(sum(sum(d) / len(d) for d in draws) / 3)
    assert "pass@9" not in scores  # nobody has nine programs
    assert [outcome["passed"] for _, outcome in outcomes[0]] == [True, False, False, True, False]
    assert outcomes[0][1][1]["result"].startswith("AssertionError")


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "raise SystemExit",
        "import sys\nsys.exit(0)",
        "def f(x):\n    exit()",
        "print('pass')",
    ],
)
def test_early_leaving(program: str, metric: Any) -> None:
    """A program that ends before its tests do has not passed, whatever it says."""
    scores, _ = metric.compute(references=[TESTS], predictions=[[program]], k=[1])
    assert scores == {"pass@1": 0.0}


def test_time_out(metric: Any) -> None:
    """A program that does not end fails after the time it is given."""
    _, outcomes = metric.compute(references=[TESTS], predictions=[["while True: pass"]], k=[1], timeout=0.5)
    assert outcomes[0][0][1]["result"] == "timed out after 0.5 s"


def test_no_program(metric: Any) -> None:
    """A problem without a program is refused."""
    with pytest.raises(UsageError, match="a problem without any program"):
        metric.compute(references=[TESTS], predictions=[[]], k=[1])
