"""The three tasks of the host `analytic`: one right line, or any line of a known joint.

200 items of six letters each. They differ in their letters only; what varies is chance.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Sequence

from l2pd_bench.tasks.base import Item, Verdict

ITEMS, LETTERS = 200, 6


class _Analytic:
    """Letters in, letters out; subclasses say what is right."""

    name: str
    gen_length = 32
    stop: tuple[str, ...] = ()
    prompt_format = "plain"
    few_shot = 0
    grading = "possible answer"

    def items(self) -> Sequence[Item]:
        """The test set, made from a fixed seed."""
        rng = random.Random(0)
        kind = self.name.removeprefix("analytic-")
        items = []
        for i in range(ITEMS):
            *line, new = rng.sample(string.ascii_lowercase, LETTERS + 1)
            replaces = kind == "replace"
            prompt = " ".join([kind, *([new] if replaces else []), *line])
            reference = " ".join([new, *line[1:]] if replaces else line)
            items.append(Item(f"{self.name}/{i:03d}", prompt, reference, {"line": line, "new": new}))
        return items

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the prompts."""
        return hashlib.sha256("\n".join(item.prompt for item in self.items()).encode()).hexdigest()

    def is_right(self, answer: list[str], line: list[str], new: str) -> bool:
        """Whether `answer` has positive probability under the joint."""
        raise NotImplementedError(self.name)

    def grade(self, item: Item, text: str) -> Verdict:
        """Right or wrong."""
        return Verdict(text, float(self.is_right(text.split(), item.data["line"], item.data["new"])))


class AnalyticCopy(_Analytic):
    """The letters as they stand."""

    name = "analytic-copy"

    def is_right(self, answer: list[str], line: list[str], new: str) -> bool:
        """Equal."""
        return answer == line


class AnalyticShuffle(_Analytic):
    """The letters in any order."""

    name = "analytic-shuffle"

    def is_right(self, answer: list[str], line: list[str], new: str) -> bool:
        """A permutation."""
        return sorted(answer) == sorted(line)


class AnalyticReplace(_Analytic):
    """The letters with exactly one replaced by the new one."""

    name = "analytic-replace"

    def is_right(self, answer: list[str], line: list[str], new: str) -> bool:
        """One difference, and it is the new letter."""
        if len(answer) != len(line):
            return False
        return [a for a, b in zip(answer, line, strict=True) if a != b] == [new]
