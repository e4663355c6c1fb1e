"""`mini-list` and `mini-line-random`: operations on a numbered waiting line.

After ParallelBench (arXiv 2510.04767), with our own words: operations with one right
answer (copy, reverse, sort, replace, insert, remove), and operations with a random
choice (shuffle, replace a random person), where tokens depend on each other however
good the model is, so that parallel filling must hurt.
"""

from __future__ import annotations

import random

from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.mini import NAMES, MiniTask

MIN_LENGTH, MAX_LENGTH = 3, 6


def numbered(line: list[str]) -> str:
    """The line as text: `1 Ann`, newline, `2 Bob`, ..."""
    return "\n".join(f"{i} {name}" for i, name in enumerate(line, 1))


def read_line(text: str) -> list[str] | None:
    """The names of a numbered line, or None if the text is not one."""
    names = []
    for i, row in enumerate(text.strip("\n").split("\n"), 1):
        number, _, name = row.partition(" ")
        if number != str(i) or not name:
            return None
        names.append(name)
    return names


class MiniList(MiniTask):
    """Score: the answer is exactly the one right line."""

    name = "mini-list"
    grading = "equal line"

    def draw(self, rng: random.Random) -> Item:
        """Make a line of 3 to 6 people and an operation on it."""
        length = rng.randint(MIN_LENGTH, MAX_LENGTH)
        *line, extra = rng.sample(NAMES, length + 1)
        at = rng.randint(1, length)
        match rng.choice(("copy", "reverse", "sort", "replace", "insert", "remove")):
            case "copy":
                order, result = "Copy the line.", list(line)
            case "reverse":
                order, result = "Reverse the line.", line[::-1]
            case "sort":
                order, result = "Sort the line by name.", sorted(line)
            case "replace":
                order, result = f"Replace number {at} by {extra}.", [*line[: at - 1], extra, *line[at:]]
            case "insert":
                order, result = f"Insert {extra} as number {at}.", [*line[: at - 1], extra, *line[at - 1 :]]
            case _:
                order, result = f"Remove number {at}.", [*line[: at - 1], *line[at:]]
        return Item("", f"{order}\n{numbered(line)}", numbered(result))

    def grade(self, item: Item, text: str) -> Verdict:
        """Exact match, outer newlines aside."""
        answer = text.strip("\n")
        return Verdict(answer, float(answer == item.reference))


class MiniLineRandom(MiniTask):
    """Score: the answer is one of the many right lines (`reference` is only one of them)."""

    name = "mini-line-random"
    grading = "possible line"

    def draw(self, rng: random.Random) -> Item:
        """Make a line and a random operation; the reference is a uniformly drawn answer."""
        length = rng.randint(MIN_LENGTH, MAX_LENGTH)
        *line, extra = rng.sample(NAMES, length + 1)
        if rng.random() < 0.5:
            order, result = "Shuffle the line.", list(line)
            while result == line:
                rng.shuffle(result)
            data: dict[str, object] = {"kind": "shuffle", "line": line}
        else:
            order, result = f"Replace a random person by {extra}.", list(line)
            result[rng.randrange(length)] = extra
            data = {"kind": "replace", "line": line, "extra": extra}
        return Item("", f"{order}\n{numbered(line)}", numbered(result), data)

    def grade(self, item: Item, text: str) -> Verdict:
        """Shuffle: same people, another order. Replace: differs in one place, by the new person."""
        answer = text.strip("\n")
        got, line = read_line(answer), item.data["line"]
        if got is None or len(got) != len(line):
            return Verdict(answer, 0.0)
        if item.data["kind"] == "shuffle":
            return Verdict(answer, float(sorted(got) == sorted(line) and got != line))
        changed = [new for new, old in zip(got, line, strict=True) if new != old]
        return Verdict(answer, float(changed == [item.data["extra"]]))
