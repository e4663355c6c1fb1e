"""`analytic`: the ideal model of three known joint distributions; no weights.

Its logits are the exact marginals of the answer given what is committed, so what a
strategy loses here is what parallel filling costs any model, however good
(ParallelBench, arXiv 2510.04767, section 3). A prompt is a kind and some letters:

    copy a b c        the letters as they stand
    shuffle a b c     a uniformly drawn order of the letters
    replace z a b c   the letters, one of them (uniformly drawn) replaced by z

EoT follows the answer with certainty.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import CausalModel, HostRequest, Session

KINDS = ("copy", "shuffle", "replace")
VOCABULARY = ("<mask>", "<eot>", "<answer>", *KINDS, *string.ascii_lowercase)
MASK_ID, EOT_ID, ANSWER_ID = 0, 1, 2
_IDS = {token: i for i, token in enumerate(VOCABULARY)}
_NEVER = -1e4  # a logit whose probability is 0 in float32

Rule = Callable[[str, list[int], list[int | None]], list[dict[int, float]]]


def marginals(kind: str, letters: list[int], committed: list[int | None]) -> list[dict[int, float]]:
    """Exact probability of each token at each position, given the `committed` ones (None: masked).

    A committed answer that the joint rules out (a letter twice, say) leaves the rest as
    if the surplus were not there: the letters not yet used, or the line unchanged.
    """
    if kind == "copy":
        return [{letter: 1.0} for letter in letters]
    if kind == "shuffle":
        left = [letter for letter in letters if letter not in committed]
        return [{letter: 1 / len(left) for letter in left} for _ in letters]
    new, line = letters[0], letters[1:]
    masked = sum(c is None for c in committed[: len(line)])
    p = 0.0 if new in committed or not masked else 1 / masked
    return [{letter: 1 - p, new: p} for letter in line]


def conditionals(kind: str, letters: list[int], committed: list[int | None]) -> list[dict[int, float]]:
    """The same given only the `committed` tokens left of each position, which is what an ideal causal model knows."""
    n = len(marginals(kind, letters, [None] * len(letters)))
    return [marginals(kind, letters, committed[:i] + [None] * (n - i))[i] for i in range(n)]


class AnalyticSession:
    """Keeps what stood in every column when it was last fed, as a KV cache does; `rule` makes the probabilities."""

    def __init__(self, padding: Sequence[int], length: int, slots: int, rule: Rule = marginals) -> None:
        self.rule = rule
        self.padding = list(padding)
        self.kept = torch.zeros(slots, length, dtype=torch.int64)

    def forward(
        self,
        ids: Tensor,
        starts: Sequence[int],
        blocks: Sequence[slice],
        *,
        rows: Sequence[int],
        lengths: Sequence[int],
        slot: int = 0,
    ) -> Tensor:
        """See `Session.forward`; float32 log-probabilities."""
        padding = [self.padding[row] for row in rows]
        size = blocks[0].stop - blocks[0].start
        places: list[tuple[int, int, int]] = []  # row, place, token of each probability; written at once
        chances: list[float] = []
        for i, pad in enumerate(padding):
            end = lengths[i]
            fed = ids[i, : end - starts[i]]
            self.kept[slot + i, starts[i] : starts[i] + len(fed)] = fed
            row = self.kept[slot + i].tolist()
            prompt_end = row.index(ANSWER_ID, pad)
            kind, letters = VOCABULARY[row[pad]], row[pad + 1 : prompt_end]
            region = [None if token == MASK_ID else token for token in row[prompt_end + 1 : end]]
            exact = self.rule(kind, letters, region)
            for place, column in enumerate(range(blocks[i].start, blocks[i].stop)):
                offset = column - prompt_end - 1
                for token, p in (exact[offset] if offset < len(exact) else {EOT_ID: 1.0}).items():
                    if p > 0:
                        places.append((i, place, token))
                        chances.append(p)
        logits = torch.full((len(padding), size, len(VOCABULARY)), _NEVER)
        at = torch.tensor(places, dtype=torch.int64).reshape(-1, 3)
        logits[at[:, 0], at[:, 1], at[:, 2]] = torch.tensor(chances, dtype=torch.float64).log().float()
        return logits

    def move(self, source: int, target: int) -> None:
        """See `Session.move`."""
        self.kept[target] = self.kept[source]


class AnalyticCausalSession:
    """See `CausalSession`: the same joint distributions, from left to right."""

    def __init__(self, padding: Sequence[int], length: int) -> None:
        self.length = length
        self.inner = AnalyticSession(padding, length, len(padding), conditionals)

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """See `CausalSession.forward`; float32 log-probabilities."""
        n = len(ids)
        return self.inner.forward(ids, [start] * n, [columns] * n, rows=range(n), lengths=[self.length] * n)


class AnalyticHost:
    """The ideal model, as a host."""

    name, revision, attention = "analytic", "1", "none"
    is_chat, is_trained = False, True
    trained_tasks: frozenset[str] | None = frozenset({"analytic-copy", "analytic-shuffle", "analytic-replace"})
    dtype, device = torch.float32, torch.device("cpu")
    vocab_size, mask_id, eot_id = len(VOCABULARY), MASK_ID, EOT_ID
    weights_hash = tokenizer_id = hashlib.sha256(" ".join(VOCABULARY).encode()).hexdigest()

    def encode(self, prompt: str, prefix: str = "", *, chat: bool | None = None) -> list[int]:
        """Ids of a kind and its letters; there is no chat template."""
        kind, *letters = prompt.split()
        if chat or prefix or kind not in KINDS or not letters or any(len(x) != 1 or x not in _IDS for x in letters):
            raise UsageError(
                f"model 'analytic': got the prompt '{prompt[:60]}', expected one of {', '.join(KINDS)} and letters; "
                f"it only answers the tasks {', '.join(sorted(self.trained_tasks or ()))}"
            )
        return [_IDS[kind], *(_IDS[x] for x in letters), ANSWER_ID]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Impossible."""
        raise UsageError("model 'analytic': got a chat, but it has no chat template")

    def encode_rendered(self, text: str) -> list[int]:
        """See `encode`."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Letters, separated by spaces."""
        return " ".join(VOCABULARY[i] for i in ids if i > EOT_ID)

    def open(self, padding: Sequence[int], length: int, *, cached: bool, slots: int | None = None) -> Session:
        """Begin with some rows."""
        return AnalyticSession(padding, length, slots or len(padding))

    def flops(self, queries: int, keys: int, logits: int) -> int:
        """None to speak of: there is no network."""
        return 0

    def vocabulary(self) -> Mapping[str, int]:
        """Token -> id."""
        return _IDS

    def companion(self) -> CausalModel:
        """The ideal causal model of the same joint distributions."""
        return CausalModel(
            f"{self.name}'s companion",
            self.mask_id,
            AnalyticCausalSession,
            lambda queries, keys, logits: 0,
        )


def load(request: HostRequest) -> AnalyticHost:
    """The host `analytic`; it has no parameters and computes on the CPU in float32."""
    request.refuse("revision", "attention", "weights", "fast")
    if request.params:
        raise UsageError(f"model 'analytic': got the parameter '{min(request.params)}', it has none")
    device, dtype = request.device, request.dtype
    if device not in ("cpu", "auto") or dtype not in ("float32", "auto"):
        raise UsageError(f"model 'analytic': got device '{device}', dtype '{dtype}'; it only runs on cpu in float32")
    return AnalyticHost()
