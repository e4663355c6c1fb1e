"""MATH: which answers count as the same mathematics."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import task_items

from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.minerva_math import DECIDERS, Math, Math500

# Items of MATH-500 whose own solution the grader refuses, with the reason. There is none with math-verify 0.9.0.
REFUSED: dict[str, dict[str, str]] = {"math-verify": {}, "exact-match": {}}


def phrase(answer: str) -> str:
    """An answer in the words of the solved examples."""
    return f"So it is.\nFinal Answer: The final answer is ${answer}$. I hope it is correct."


def box(answer: str) -> Item:
    """A problem with this answer."""
    import lm_eval.tasks.minerva_math.utils as minerva

    return Item("m/0", "?", f"It is $\\boxed{{{answer}}}$.", {"answer": minerva.normalize_final_answer(answer)})


@pytest.mark.parametrize(
    ("gold", "text", "by_meaning", "by_form"),
    [
        (r"\frac{1}{2}", phrase(r"\frac{1}{2}"), 1, 1),
        (r"\frac{1}{2}", phrase(r"\frac12"), 1, 1),
        (r"\frac{1}{2}", phrase("0.5"), 1, 1),
        (r"\frac{1}{2}", "It is $\\boxed{0.5}$.", 1, 0),
        ("(x+1)^2", phrase("x^2+2x+1"), 1, 1),
        (r"\text{Ann}", phrase("Ann"), 1, 1),
        (r"\{1,2\}", phrase(r"\{2,1\}"), 1, 0),
        ("1,000", phrase("1000"), 1, 1),
        (r"\frac{1}{2}", phrase(r"\frac{1}{3}"), 0, 0),
        (r"\frac{1}{2}", "", 0, 0),
        ("5", "I do not know.", 0, 0),
    ],
)
def test_what_counts_as_equal(gold: str, text: str, by_meaning: int, by_form: int) -> None:
    """math-verify compares any answer as mathematics; exact-match wants the phrase of the examples."""
    assert Math500().grade(box(gold), text).score == by_meaning
    assert Math500(filter="exact-match").grade(box(gold), text).score == by_form


def test_verdicts_are_lm_evals() -> None:
    """Both filters judge as lm-eval's own process_results does, on right, wrong and unreadable texts."""
    import lm_eval.tasks.minerva_math.utils as minerva

    answers = (
        r"\frac{1}{2}",
        "0.5",
        "-0.5",
        "(1,2)",
        "1,2",
        r"2\sqrt{3}",
        r"\sqrt{12}",
        r"90^\circ",
        r"\text{Ann}",
        "x=5",
    )
    forms: tuple[Callable[[str], str], ...] = (phrase, "It is $\\boxed{{{}}}$.".format)
    by_meaning, by_form, seen = Math(), Math(filter="exact-match"), []
    for gold in (answers[0], answers[3]):
        item = box(gold)
        doc = {"solution": item.reference, "answer": item.data["answer"]}
        for text in [form(answer) for form in forms for answer in answers]:
            theirs = minerva.process_results(doc, [text])
            ours = {"math_verify": by_meaning.grade(item, text).score, "exact_match": by_form.grade(item, text).score}
            assert ours == theirs, (gold, text)
            seen.append(tuple(theirs.values()))
    assert {(0, 0), (0, 1), (1, 1)} <= set(seen)  # else the texts say little


def test_a_reference_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution is read once, however many texts are compared with it."""
    import math_verify

    seen: list[str] = []
    real = math_verify.parse
    monkeypatch.setattr(math_verify, "parse", lambda text, **given: seen.append(text) or real(text, **given))
    task, problem = Math500(), box("7")
    scores = [task.grade(problem, f"I say $\\boxed{{{n}}}$.").score for n in (6, 7, 8)]
    assert scores == [0, 1, 0]
    assert seen.count(problem.reference) == 1 and len(seen) == 4


def test_in_other_threads() -> None:
    """In a thread, which may set no alarm, math-verify works without time-outs, and exact-match says that it cannot."""
    found: list[Any] = []

    def work() -> None:
        found.append(Math500().grade(box("7"), phrase("7")))
        with pytest.raises(RuntimeError, match="main thread"):
            Math500(filter="exact-match").grade(box("7"), phrase("7"))
        found.append("refused")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [Verdict("7", 1.0), "refused"]


def test_gradings_name_the_library() -> None:
    """What decides is part of the protocol, with its version."""
    assert Math().grading == f"math-verify {version('math-verify')}"
    assert Math500(filter="exact-match").grading == f"exact-match, lm-eval {version('lm-eval')}"


@pytest.mark.parametrize("chosen", DECIDERS)
class TestRealItems:
    """All of MATH-500."""

    def test_gold_answers(self, chosen: str) -> None:
        """Every solution that ends in the phrase of the examples is right by its own grader."""
        folder = task_items.data_dir()
        task = Math500(data_dir=folder, filter=chosen)
        rows = [json.loads(line) for line in (Path(folder) / "math500.jsonl").read_text("utf-8").splitlines()]
        wrong = [
            item.doc_id
            for item, row in zip(task.items(), rows, strict=True)
            if not task.grade(item, f"{item.reference}\n{phrase(row['answer'])}").correct
        ]
        assert len(task.items()) == 500
        assert wrong == list(REFUSED[chosen])

    def test_answers_of_other_items(self, chosen: str) -> None:
        """The answer of the item 137 further on is right where it is the item's own, 3 times in 500."""
        task = Math500(data_dir=task_items.data_dir(), filter=chosen)
        items = task.items()
        pairs = [(item, items[(i + 137) % len(items)]) for i, item in enumerate(items)]
        equal = [item.doc_id for item, other in pairs if item.data["answer"] == other.data["answer"]]
        assert len(equal) == 3
        right = [
            item.doc_id
            for i, (item, other) in enumerate(pairs)
            if (task_items.FULL or i % 5 == 0 or item.doc_id in equal)
            and task.grade(item, phrase(other.data["answer"])).correct
        ]
        assert right == equal


def test_items_and_their_names(tmp_path: Path) -> None:
    """Items are named after their place; math and math500 ask alike."""
    task_items.write_all(tmp_path)
    many, few = (load_task(name, data_dir=tmp_path).items() for name in ("math", "math500"))
    assert [item.doc_id for item in many] == [f"math/{i}" for i in range(28)]
    assert [item.doc_id for item in few] == [f"math500/{i}" for i in range(25)]
    assert [item.prompt for item in many[:25]] == [item.prompt for item in few]
    assert many[0].prompt.count("Problem:\n") == 5


@pytest.mark.parametrize("name", ["math", "math500"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("filter=verify", "filter: got 'verify', expected one of exact-match, math-verify"),
        ("form=chat", "form: got 'chat', expected one of base, instruct"),
        ("shots=5", "shots: got 5, expected 0 to 4"),
    ],
)
def test_wrong_parameters(name: str, given: str, message: str) -> None:
    """A value that nobody knows is a usage error that names those that are known."""
    with pytest.raises(UsageError) as caught:
        load_task(f"{name}:{given}")
    assert message in str(caught.value)


def test_solutions_without_an_answer(tmp_path: Path) -> None:
    """A solution without a box is refused: no text could be right."""
    task_items.write_lines(tmp_path / "math500.jsonl", [{"problem": "?", "solution": "It is 5."}])
    with pytest.raises(UsageError, match=r"math500/0: got a solution without \\boxed\{answer\}"):
        Math500(data_dir=str(tmp_path)).items()


def test_without_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the libraries of mathematics are missing, the error says how to install them."""
    task_items.write_all(tmp_path)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UsageError, match=r"pip install 'lm-eval\[math\]'"):
        Math500().grade(Item("m/0", "?", "$\\boxed{7}$"), "7")
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.minerva_math", None)
    with pytest.raises(UsageError, match=r"pip install 'lm-eval\[math\]'"):
        Math500(data_dir=str(tmp_path)).items()
