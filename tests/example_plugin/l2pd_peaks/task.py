"""Anagrams for the host `analytic`: any order of the letters is right, the same letter twice is not."""

import hashlib
from collections.abc import Sequence

from l2pd_bench.tasks.base import Item, Verdict, dump_items

WORDS = ("listen", "stream", "bread", "worth", "begin", "mask")


class Anagram:
    """The letters of a word in another order."""

    name = "anagram"
    gen_length = 32
    stop: tuple[str, ...] = ()
    prompt_format = "plain"
    few_shot = 0
    grading = "the same letters"

    def items(self) -> Sequence[Item]:
        """One question for each word."""
        return [Item(f"anagram/{word}", " ".join(["shuffle", *word]), word) for word in WORDS]

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the items."""
        return hashlib.sha256(dump_items(self.items()).encode()).hexdigest()

    def grade(self, item: Item, text: str) -> Verdict:
        """Right if exactly the word's letters are there."""
        answer = text.replace(" ", "")
        return Verdict(answer, float(sorted(answer) == sorted(item.reference)))
