"""What the four `mini-*` tasks share: the split, the stored test sets, the words.

The tasks are generated. A prompt belongs to the test pool or to the training pool by a
hash of its text alone, so the two can never overlap, whatever the seeds. The test sets
are stored beside this file (`mini-*.jsonl`), so a change of a generator cannot move
them silently; `l2pd-bench mini data` rewrites them.
"""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files

from l2pd_bench.tasks.base import Item, Program, Verdict

TEST_SIZE = 600  # so many, all the same, tell a loss of one point from none
TEST_SEED = 20261120
TEST_SHARE = 16  # one prompt in so many belongs to the test pool

NAMES = (
    "Ann Bob Cat Dan Eve Fay Gus Hal Ivy Jay Kim Leo Mia Ned Oli Pam Quin Ray Sue Tom Uma Val Wes Xia Yan Zoe"
).split()


def in_test_pool(prompt: str) -> bool:
    """Whether a prompt may appear in a test set (and therefore never in training)."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:4], "big") % TEST_SHARE == 0


class MiniTask(ABC):
    """A generated task: a generator of items, a stored test set, a grader."""

    name: str
    gen_length = 128
    stop: tuple[str, ...] = ()
    prompt_format = "chat"
    few_shot = 0
    grading: str

    @abstractmethod
    def draw(self, rng: random.Random) -> Item:
        """Make one item, of either pool; `doc_id` is left empty."""

    @abstractmethod
    def grade(self, item: Item, text: str) -> Verdict | Program:
        """Grade an answer text."""

    def training_item(self, rng: random.Random) -> Item:
        """Draw an item that can never be a test item."""
        while True:
            item = self.draw(rng)
            if not in_test_pool(item.prompt):
                return item

    def make_test_set(self) -> list[Item]:
        """Generate the test set: `TEST_SIZE` different prompts of the test pool."""
        rng = random.Random(TEST_SEED)
        chosen: dict[str, Item] = {}
        while len(chosen) < TEST_SIZE:
            item = self.draw(rng)
            if in_test_pool(item.prompt) and item.prompt not in chosen:
                doc_id = f"{self.name}/{len(chosen):03d}"
                chosen[item.prompt] = Item(doc_id, item.prompt, item.reference, item.data)
        return list(chosen.values())

    def items(self) -> Sequence[Item]:
        """The stored test set."""
        return [Item(**json.loads(line)) for line in self._stored.splitlines()]

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 (hex) of the stored test set."""
        return hashlib.sha256(self._stored.encode()).hexdigest()

    @cached_property
    def _stored(self) -> str:
        return files("l2pd_bench.tasks").joinpath(f"{self.name}.jsonl").read_text("utf-8")
