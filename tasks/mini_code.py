"""`mini-code`: one-sentence function specifications; the answer is Python that passes tests.

Several families have two right forms (a loop or a comprehension, say) and the training
answers use both, so an answer filled in too many places at once mixes them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from l2pd_bench.tasks.base import Item, Program, Verdict
from l2pd_bench.tasks.mini import MiniTask
from l2pd_bench.tasks.mini_code_rules import refusal

FUNCTIONS = "apply build check count find fix make pick run scan solve take work".split()
NUMBERS, LISTS, WORDS = "n x y".split(), "items nums xs".split(), "s text word".split()
ITEM_NAMES = "i v".split()


class Family(NamedTuple):
    """One kind of function: specifications, right forms, and what it computes.

    The texts may use {a} (argument), {i} (loop variable), {k} and {m} (constants).
    """

    arguments: list[str]
    specs: tuple[str, ...]
    forms: tuple[str, ...]
    compute: Callable[[Any, int, int], Any]


def inputs_for(family: Family, k: int) -> list[Any]:
    """Test inputs on both sides of the constant, so that a wrong constant fails."""
    if family.arguments is NUMBERS:
        return [0, 1, k - 1, k, k + 1, 2 * k]
    if family.arguments is LISTS:
        return [[], [k], [k + 1, k - 1, k, 3, k + 4], list(range(1, 25))]
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["", "a", letters[: k - 1], letters[:k], letters[: k + 1]]


FAMILIES: tuple[Family, ...] = (
    Family(NUMBERS, ("returns {a} plus {k}",), ("return {a} + {k}",), lambda a, k, m: a + k),
    Family(NUMBERS, ("returns {a} minus {k}",), ("return {a} - {k}",), lambda a, k, m: a - k),
    Family(
        NUMBERS,
        ("returns {a} times {k} plus {m}",),
        ("return {a} * {k} + {m}", "return {m} + {k} * {a}"),
        lambda a, k, m: a * k + m,
    ),
    Family(
        NUMBERS,
        ("returns the larger of {a} and {k}",),
        ("if {a} > {k}:\n        return {a}\n    return {k}", "return max({a}, {k})"),
        lambda a, k, m: max(a, k),
    ),
    Family(
        NUMBERS,
        ("returns the smaller of {a} and {k}",),
        ("if {a} < {k}:\n        return {a}\n    return {k}", "return min({a}, {k})"),
        lambda a, k, m: min(a, k),
    ),
    Family(
        NUMBERS,
        ("says if {a} can be divided by {k}",),
        ("return {a} % {k} == 0",),
        lambda a, k, m: a % k == 0,
    ),
    Family(
        NUMBERS,
        ("returns the sum of the numbers from 1 to {a}",),
        (
            "total = 0\n    for {i} in range(1, {a} + 1):\n        total += {i}\n    return total",
            "return sum(range(1, {a} + 1))",
        ),
        lambda a, k, m: sum(range(1, a + 1)),
    ),
    Family(
        LISTS,
        ("returns the items of {a} larger than {k}",),
        (
            "return [{i} for {i} in {a} if {i} > {k}]",
            "out = []\n    for {i} in {a}:\n        if {i} > {k}:\n            out.append({i})\n    return out",
        ),
        lambda a, k, m: [v for v in a if v > k],
    ),
    Family(
        LISTS,
        ("returns the items of {a} smaller than {k}",),
        (
            "return [{i} for {i} in {a} if {i} < {k}]",
            "out = []\n    for {i} in {a}:\n        if {i} < {k}:\n            out.append({i})\n    return out",
        ),
        lambda a, k, m: [v for v in a if v < k],
    ),
    Family(
        LISTS,
        ("adds {k} to every item of {a}",),
        ("return [{i} + {k} for {i} in {a}]",),
        lambda a, k, m: [v + k for v in a],
    ),
    Family(
        LISTS,
        ("multiplies every item of {a} by {k}",),
        ("return [{i} * {k} for {i} in {a}]",),
        lambda a, k, m: [v * k for v in a],
    ),
    Family(
        LISTS,
        ("counts the items of {a} larger than {k}",),
        (
            "total = 0\n    for {i} in {a}:\n        if {i} > {k}:\n            total += 1\n    return total",
            "return len([{i} for {i} in {a} if {i} > {k}])",
        ),
        lambda a, k, m: len([v for v in a if v > k]),
    ),
    Family(
        LISTS,
        ("returns the sum of the items of {a} smaller than {k}",),
        (
            "total = 0\n    for {i} in {a}:\n        if {i} < {k}:\n            total += {i}\n    return total",
            "return sum([{i} for {i} in {a} if {i} < {k}])",
        ),
        lambda a, k, m: sum(v for v in a if v < k),
    ),
    Family(LISTS, ("returns the first {k} items of {a}",), ("return {a}[:{k}]",), lambda a, k, m: a[:k]),
    Family(LISTS, ("returns the last {k} items of {a}",), ("return {a}[-{k}:]",), lambda a, k, m: a[-k:]),
    Family(WORDS, ("returns {a} repeated {k} times",), ("return {a} * {k}",), lambda a, k, m: a * k),
    Family(WORDS, ("returns {a} reversed",), ("return {a}[::-1]",), lambda a, k, m: a[::-1]),
    Family(
        WORDS,
        ("says if {a} has more than {k} letters",),
        ("return len({a}) > {k}",),
        lambda a, k, m: len(a) > k,
    ),
)


class MiniCode(MiniTask):
    """Score: the answer is a program of the allowed kind and every assertion holds."""

    name = "mini-code"
    grading = "tests run"

    def draw(self, rng: random.Random) -> Item:
        """Make a specification, one of its right programs, and its tests."""
        family = rng.choice(FAMILIES)
        argument, loop = rng.choice(family.arguments), rng.choice(ITEM_NAMES)
        function = rng.choice(FUNCTIONS)
        k, m = rng.randint(2, 20), rng.randint(2, 20)
        fill = {"a": argument, "i": loop, "k": k, "m": m}
        spec = rng.choice(family.specs).format(**fill)
        body = rng.choice(family.forms).format(**fill)
        tests = [f"assert {function}({value!r}) == {family.compute(value, k, m)!r}" for value in inputs_for(family, k)]
        prompt = f"Write {function}({argument}) that {spec}."
        return Item("", prompt, f"def {function}({argument}):\n    {body}", {"tests": tests})

    def grade(self, item: Item, text: str) -> Verdict | Program:
        """The whole text is the program: 0 if it is not of the allowed kinds, else its tests decide."""
        if refusal(text) is not None:
            return Verdict(text, 0.0)
        return Program(text, text, "\n".join(item.data["tests"]), is_harmless=True)
