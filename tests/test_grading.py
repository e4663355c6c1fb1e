"""Grading by a task itself, and by running what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from l2pd_bench import sandbox
from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.grading import Grader
from l2pd_bench.tasks.analytic import AnalyticCopy
from l2pd_bench.tasks.base import Item, Program, Verdict

ITEM = Item("t/0", "copy a", "a")


class Judged(AnalyticCopy):
    """A task whose verdict is told."""

    def __init__(self, verdict: Callable[[str], Verdict | Program], *, needs_sandbox: bool = False) -> None:
        self.verdict, self.needs_sandbox = verdict, needs_sandbox

    def grade(self, item: Item, text: str) -> Verdict:
        """As told."""
        return self.verdict(text)  # type: ignore[return-value]


def program(*, is_harmless: bool) -> Callable[[str], Program]:
    """What makes a program of a text."""
    return lambda text: Program(text, text, "assert f(1) == 2", is_harmless)


RIGHT, WRONG = "def f(x):\n    return x + 1", "def f(x):\n    return x"


def test_verdicts_pass_through() -> None:
    """A task that grades by itself is taken at its word."""
    task = Judged(lambda text: Verdict(text.upper(), 0.25))
    assert Grader([task]).grade(task, ITEM, "a") == Verdict("A", 0.25)


def test_harmless_programs() -> None:
    """A program that can do no harm runs without a sandbox, also where there is none, and its tests decide."""
    task = Judged(program(is_harmless=True))
    grader = Grader([task])
    assert grader.sandbox is None
    assert [grader.grade(task, ITEM, text) for text in (RIGHT, WRONG)] == [Verdict(RIGHT, 1.0), Verdict(WRONG, 0.0)]


def test_programs_in_the_sandbox() -> None:
    """A task that needs it gets a sandbox, and the score is whether the tests hold in it."""
    task = Judged(program(is_harmless=False), needs_sandbox=True)
    try:
        grader = Grader([task])
    except UsageError as error:
        pytest.skip(str(error))
    assert grader.sandbox is not None and grader.sandbox.level != "bare"
    assert [grader.grade(task, ITEM, text).score for text in (RIGHT, WRONG)] == [1.0, 0.0]


def test_no_sandbox_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no sandbox works a task that needs one is refused at once, and nothing runs without one unless told so."""
    monkeypatch.setattr(sandbox, "_fault", lambda level: "" if level == "bare" else "not here")
    task = Judged(program(is_harmless=False), needs_sandbox=True)
    with pytest.raises(UsageError, match="--unsafe-code"):
        Grader([task])
    grader = Grader([task], unsafe=True)
    assert grader.sandbox is not None and grader.sandbox.level == "bare"
    assert grader.grade(task, ITEM, RIGHT).correct


def test_undeclared_programs() -> None:
    """A task that has a program to run without having said that it needs a sandbox is told so."""
    task = Judged(program(is_harmless=False))
    with pytest.raises(PluginError, match="needs_sandbox"):
        Grader([task]).grade(task, ITEM, RIGHT)


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan")])
def test_scores_out_of_range(score: float) -> None:
    """A score outside 0 to 1 is the task's fault, and named."""
    task = Judged(lambda text: Verdict(text, score))
    with pytest.raises(PluginError, match=r"task 'analytic-copy': graded t/0 .*, expected a score from 0 to 1"):
        Grader([task]).grade(task, ITEM, "a")
