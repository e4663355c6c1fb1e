"""The four `mini-*` tasks: references are right, wrong answers are wrong, the split holds."""

from __future__ import annotations

import itertools
import operator
import random
import re

import pytest

from l2pd_bench.grading import Grader
from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.mini import NAMES, TEST_SIZE, MiniTask, in_test_pool
from l2pd_bench.tasks.mini_code import MiniCode
from l2pd_bench.tasks.mini_list import MiniLineRandom, MiniList
from l2pd_bench.tasks.mini_math import LIMIT, MiniMath

TASKS = (MiniMath(), MiniList(), MiniLineRandom(), MiniCode())
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}

by_name = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def draw(task: MiniTask, count: int) -> list[Item]:
    """Items of both pools."""
    rng = random.Random(7)
    return [task.draw(rng) for _ in range(count)]


def grade(task: MiniTask, item: Item, text: str) -> Verdict:
    """The verdict of the harness, which runs programs."""
    return Grader([task]).grade(task, item, text)


@by_name
def test_references_are_right(task: MiniTask) -> None:
    """The reference of every drawn item gets full marks, also with newlines around it."""
    for item in draw(task, 100 if task.name == "mini-code" else 500):
        assert grade(task, item, item.reference).score == 1.0, item
    padded = f"\n{item.reference}\n"
    assert grade(task, item, padded).score == 1.0


@by_name
def test_answers_of_others_are_wrong(task: MiniTask) -> None:
    """The answer to another item is right by chance in fewer than one of twenty cases."""
    items = draw(task, 150 if task.name == "mini-code" else 500)
    scores = [grade(task, item, other.reference).score for item, other in itertools.pairwise(items)]
    assert sum(scores) / len(scores) < 0.05


@by_name
def test_no_answer_is_wrong(task: MiniTask) -> None:
    """An empty text, blank lines, the prompt itself and chatter score 0."""
    for item in draw(task, 20):
        for text in ("", "\n\n", item.prompt, "I do not know."):
            verdict = grade(task, item, text)
            assert (verdict.score, verdict.correct) == (0.0, False), (item, text)


@by_name
def test_training_never_shows_the_test_pool(task: MiniTask) -> None:
    """No training prompt is of the test pool, though the generator draws from both."""
    rng = random.Random(3)
    assert not any(in_test_pool(task.training_item(rng).prompt) for _ in range(500))
    assert any(in_test_pool(item.prompt) for item in draw(task, 500))


@by_name
def test_test_set(task: MiniTask) -> None:
    """The test set is 600 different prompts of the test pool, and the same each time."""
    items = task.make_test_set()
    assert len({item.prompt for item in items}) == len({item.doc_id for item in items}) == TEST_SIZE == 600
    assert all(in_test_pool(item.prompt) for item in items)
    assert items == task.make_test_set()


def total_of(problem: str) -> int:
    """The answer to a `mini-math` problem, read from its words alone."""
    *story, question = re.findall(r"[^.?]+[.?]", problem)
    name = question.split()[-2]
    total = 0
    for sentence in (part.strip() for part in story):
        number, *more = (int(digits) for digits in re.findall(r"\d+", sentence))
        if re.match(rf"{name} has \d+ (bags|boxes) of \d+ ", sentence):
            total = number * more[0]
        elif re.match(rf"{name} (has|buys|finds) |\w+ gives {name} ", sentence):
            total += number
        elif re.match(rf"{name} (gives|loses|sells) \d", sentence):
            total -= number
        else:
            raise AssertionError(f"not understood: {sentence}")
    return total


def test_math_answers_follow_from_the_text() -> None:
    """The answer of a `mini-math` problem is what its words add up to."""
    for item in draw(MiniMath(), 2000):
        assert item.reference.split("\n")[-1] == f"#### {total_of(item.prompt)}", item


def test_math_chains_are_true() -> None:
    """Every line of a chain is true, starts from the result before it, and ends at the answer."""
    for item in draw(MiniMath(), 2000):
        *chain, final = item.reference.split("\n")
        before = None
        for line in chain:
            found = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", line)
            assert found is not None, item
            left, right, result = int(found[1]), int(found[3]), int(found[4])
            assert SIGNS[found[2]](left, right) == result, item
            assert before in (None, left), item
            assert max(left, right, result) <= LIMIT, item
            before = result
        assert final == f"#### {before}", item


def test_math_grader_reads_the_first_final() -> None:
    """Only the number after the first `####` counts, whole, with its sign."""
    task, item = MiniMath(), Item("", "", "4+8=12\n#### 12")
    right = ("#### 12", "junk\n#### 12", "#### 12\n#### 13", "4+8=13\n#### 12")
    wrong = ("12", "####12", "#### 1", "#### 120", "#### -12", "#### 13\n#### 12", "####")
    assert [task.grade(item, text).score for text in right] == [1.0] * len(right)
    assert [task.grade(item, text).score for text in wrong] == [0.0] * len(wrong)


def one_list_answer(order: str, line: list[str]) -> list[str]:
    """The answer to a `mini-list` order, worked out in place, step by step."""
    result = list(line)
    match order.rstrip(".").split():
        case ["Copy", *_]:
            pass
        case ["Reverse", *_]:
            result.reverse()
        case ["Sort", *_]:
            result.sort()
        case ["Replace", "number", at, "by", name]:
            result[int(at) - 1] = name
        case ["Insert", name, "as", "number", at]:
            result.insert(int(at) - 1, name)
        case ["Remove", "number", at]:
            result.pop(int(at) - 1)
        case _:
            raise AssertionError(f"not understood: {order}")
    return result


def test_list_answers_follow_from_the_order() -> None:
    """The reference of a `mini-list` item is the order carried out on the line of the prompt."""
    for item in draw(MiniList(), 2000):
        order, *rows = item.prompt.split("\n")
        line = [row.split(" ")[1] for row in rows]
        want = [f"{i} {name}" for i, name in enumerate(one_list_answer(order, line), 1)]
        assert item.reference.split("\n") == want, item


@pytest.mark.parametrize("kind", ["shuffle", "replace"])
@pytest.mark.parametrize("length", [3, 4])
def test_line_random_against_enumeration(kind: str, length: int) -> None:
    """The grader accepts exactly the right lines among all lines of the people at hand."""
    task, rng = MiniLineRandom(), random.Random(length)
    item = task.draw(rng)
    while item.data["kind"] != kind or len(item.data["line"]) != length:
        item = task.draw(rng)
    line = item.data["line"]
    extra = item.data.get("extra", "Nobody")
    if kind == "shuffle":
        right = set(itertools.permutations(line)) - {tuple(line)}
    else:
        right = {(*line[:at], extra, *line[at + 1 :]) for at in range(length)}
    stranger = next(name for name in NAMES if name not in (*line, extra))
    accepted = set()
    for size in range(length + 2):
        for names in itertools.product([*line, extra, stranger], repeat=size):
            text = "\n".join(f"{i} {name}" for i, name in enumerate(names, 1))
            if task.grade(item, text).correct:
                accepted.add(names)
    assert accepted == right


def test_line_random_wants_the_numbers() -> None:
    """A right order with numbers missing, wrong or out of place scores 0."""
    task = MiniLineRandom()
    item = Item("", "", "", {"kind": "shuffle", "line": ["Ann", "Bob", "Cat"]})
    assert task.grade(item, "1 Bob\n2 Ann\n3 Cat").correct
    for text in (
        "Bob\nAnn\nCat",
        "0 Bob\n1 Ann\n2 Cat",
        "1 Bob\n3 Ann\n2 Cat",
        "1 Bob 2 Ann 3 Cat",
        "1 Bob\n\n2 Ann\n3 Cat",
    ):
        assert not task.grade(item, text).correct, text
