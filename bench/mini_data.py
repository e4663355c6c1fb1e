"""What the embedded models are trained on: the recipe's settings, the tokenizer, batches and masks.

Everything is a function of recipe and step. How the weights are learned from it is `mini.py`'s affair.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from l2pd_bench.hosts.mini import ASSISTANT, EOT, MASK, UNKNOWN, USER, MiniTokenizer
from l2pd_bench.hosts.transformer import TransformerConfig
from l2pd_bench.tasks.base import Item

SPECIAL = (MASK, EOT, USER, ASSISTANT, UNKNOWN)
BLOCK = 32

# A piece of text that becomes one token if the generators use it: indentation, spaced
# operators, words with their leading space; digits and everything else one by one.
_PIECE = re.compile(r"\n +|#### |, | (?:==|\+=|[-+*%<>=]) | ?[A-Za-z]+|\d|.|\n")
_ASCII = [chr(c) for c in range(32, 127)] + ["\n"]


TASKS = ("mini-math", "mini-list", "mini-code", "mini-line-random")
STEPS = {"diffusion": 14_000, "causal": 4_000}


@runtime_checkable
class Generator(Protocol):
    """A task that can make training items and its own test set."""

    name: str

    def training_item(self, rng: random.Random) -> Item:
        """Draw an item that can never be a test item."""
        ...

    def make_test_set(self) -> list[Item]:
        """Generate the test set."""
        ...


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the generators."""

    model: str  # "diffusion" or "causal"
    steps: int
    seed: int = 0
    rows: int = 96  # items per batch
    learning_rate: float = 2e-3
    warmup: int = 100
    decay_from: float = 0.6  # of the steps; linear to zero after it
    suffix_from: int = 4000  # from this step on, a third of the rows have all masked after one place
    shares_until: tuple[tuple[int, tuple[float, ...]], ...] = (  # of the items, in the order of TASKS
        (11_500, (0.36, 0.30, 0.22, 0.12)),
        (1 << 30, (0.28, 0.20, 0.20, 0.32)),  # the others are learned by now
    )

    def config(self, vocab_size: int) -> TransformerConfig:
        """The network's shape."""
        if self.model == "causal":
            return TransformerConfig(vocab_size, 128, 3, 4, 352, causal=True)
        return TransformerConfig(vocab_size, 192, 4, 6, 528)

    def shares_at(self, step: int) -> tuple[float, ...]:
        """How much of a batch comes from each task."""
        return next(shares for until, shares in self.shares_until if step < until)

    def rate_at(self, step: int) -> float:
        """Learning rate: warm-up, flat, linear decay."""
        start = self.decay_from * self.steps
        down = 1.0 if step < start else max(0.0, (self.steps - step) / (self.steps - start))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * down


# ------------------------------------------------------------------ tokenizer


def build_tokenizer(tasks: Sequence[Generator], draws: int = 4000) -> Tokenizer:
    """The pieces the generators use, and single characters for all else: lossless on printable ASCII and newlines."""
    rng = random.Random(0)
    pieces: set[str] = set()
    for task in tasks:
        for _ in range(draws):
            item = task.training_item(rng)
            pieces.update(_PIECE.findall(item.prompt), _PIECE.findall(item.reference))
    words = sorted(pieces | set(_ASCII))
    vocab = {token: i for i, token in enumerate([*SPECIAL, *words])}
    longest_first = sorted(words, key=lambda w: (-len(w), w))
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join([*map(re.escape, longest_first), "."])), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


# ------------------------------------------------------------------ batches


_GROUP = 8  # batches drawn together, then sorted by length: short rows are not padded to long ones
_STEP = 8  # row lengths are rounded up to it, so that a compiled model compiles few times
_FULL = 176  # a prompt and a canvas of 128 or a little more

Rows = list[tuple[list[int], list[int]]]  # prompt ids, answer ids


class Batches:
    """Training batches by step: a pure function of recipe and step, so a run can resume anywhere."""

    def __init__(self, recipe: Recipe, tasks: Sequence[Generator], tokenizer: MiniTokenizer) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        by_name = {t.name: t for t in tasks}
        self.tasks = [by_name[name] for name in TASKS]
        self.eot = tokenizer.eot
        self._group: tuple[int, list[tuple[int, Rows]]] = (-1, [])

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (B, T), prompt lengths (B,) and answer lengths (B,), EoT to the end of every row.

        Most batches have a short EoT tail, which is cheap; a share of them, larger towards
        the end, has the canvas used in decoding.
        """
        rng = random.Random(f"{self.recipe.seed}/{step}")
        late = step > 0.8 * self.recipe.steps
        if self.recipe.model == "diffusion" and rng.random() < (0.5 if late else 0.12):
            return self._tensors(self._draw(rng, self.recipe.rows // 3, step), _FULL)
        group, place = divmod(step, _GROUP)
        if self._group[0] != group:
            rng = random.Random(f"{self.recipe.seed}/group/{group}")
            self._group = (group, self._sorted_group(rng, group * _GROUP))
        length, rows = self._group[1][place]
        return self._tensors(rows, length)

    def _draw(self, rng: random.Random, count: int, step: int) -> Rows:
        tasks = rng.choices(self.tasks, self.recipe.shares_at(step), k=count)
        items = [task.training_item(rng) for task in tasks]
        return [(self.tokenizer.prompt(item.prompt), self.tokenizer.answer(item.reference)) for item in items]

    def _sorted_group(self, rng: random.Random, step: int) -> list[tuple[int, Rows]]:
        size = self.recipe.rows
        needs = [(len(p) + len(a) + rng.randint(1, 6), p, a) for p, a in self._draw(rng, _GROUP * size, step)]
        needs.sort(key=lambda row: row[0])
        chunks = [needs[i : i + size] for i in range(0, len(needs), size)]
        rng.shuffle(chunks)
        return [(-(-max(n for n, _, _ in c) // _STEP) * _STEP, [(p, a) for _, p, a in c]) for c in chunks]

    def _tensors(self, rows: Rows, length: int) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.full((len(rows), length), self.eot)
        for i, (prompt, answer) in enumerate(rows):
            ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        prompts = torch.tensor([len(p) for p, _ in rows])
        return ids, prompts, torch.tensor([len(a) for _, a in rows])


def mask_rows(prompts: Tensor, answers: Tensor, length: int, generator: torch.Generator, *, suffixes: bool) -> Tensor:
    """Which positions to mask, (B, T) bool: ratios stratified over the batch, 0.1 to 1.

    Half of the rows look as they do in semi-autoregressive decoding: everything before
    one block is given, everything after it is masked. With `suffixes`, a third of all
    rows have everything masked from one place on: a worked chain repeats its results, so
    under scattered masks the model learns to copy them and has little need to calculate.
    """
    batch = prompts.shape[0]
    draw = torch.rand(batch, 4, generator=generator)
    strata = (torch.randperm(batch, generator=generator) + draw[:, 0]) / batch
    ratio = 0.1 + 0.9 * strata
    offset = torch.arange(length) - prompts[:, None]  # (B, T): place in the generation region
    chosen = torch.rand(batch, length, generator=generator) < ratio[:, None]
    last_block = answers // BLOCK  # the block that holds the first EoT
    block = (draw[:, 1] * (last_block + 1)).long()[:, None]
    blockwise = torch.where(offset // BLOCK == block, chosen, offset // BLOCK > block)
    masked = torch.where(draw[:, 2:3] < 0.5, blockwise, chosen)
    if suffixes:
        extra = torch.rand(batch, 2, generator=generator)
        cut = (extra[:, 1] * (answers + 1)).long()[:, None]
        masked = torch.where(extra[:, :1] < 1 / 3, offset >= cut, masked)
    masked[torch.arange(batch), prompts + (draw[:, 3] * (answers + 1)).long()] = True  # at least one
    return masked & (offset >= 0)
