"""Learn2PD's filter: the network, and the safetensors file that says what it was made for.

The file is all that `l2pd-bench filter train` and the strategy share. How a filter is
trained, and when its answer counts, is not known here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from l2pd_bench.errors import UsageError
from l2pd_bench.strategies.base import Context

FORMAT = "l2pd-bench filter 1"
DEPTHS = (1, 2, 4)
INPUTS = ("mask", "step")  # beyond the paper's confidences


class Filter(nn.Module):
    """Says of every position of a block, as a logit, whether what is predicted there is final (arXiv 2509.25188).

    `depth` linear layers as wide as the block, ReLU between them; 2 is the paper's. It is
    fed the confidences of the block in position order, those of committed positions included;
    with "mask" in `inputs` also whether each is a candidate, with "step" also the
    forwards already spent on the block, divided by its length.
    """

    def __init__(self, block_length: int, depth: int = 2, inputs: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.block_length, self.inputs = block_length, inputs
        fed = block_length * (1 + ("mask" in inputs)) + ("step" in inputs)
        widths = [fed] + [block_length] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, confidence: Tensor, candidates: Tensor, step: int | Tensor) -> Tensor:
        """Logits (B, N) float32 of `confidence` (B, N) float32, `candidates` (B, N) bool and `step`, one or (B,)."""
        parts = [confidence]
        if "mask" in self.inputs:
            parts.append(candidates.to(confidence.dtype))
        if "step" in self.inputs:
            share = confidence.new_zeros(len(confidence)) + step / self.block_length
            parts.append(share[:, None])
        x = torch.cat(parts, -1) if len(parts) > 1 else confidence
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        logits: Tensor = self.layers[-1](x)
        return logits


@dataclass(frozen=True, kw_only=True)
class FilterCard:
    """What a filter file says about its filter. `data`, `recipe` and `metrics` are for people: nothing reads them."""

    host: str  # the model's name
    weights_hash: str  # of the model
    block_length: int
    gen_length: int  # of the decodes it was trained on; it may be used at any
    depth: int
    inputs: tuple[str, ...]  # of INPUTS
    masked_only: bool  # whether the loss left out committed positions
    tau: float  # the acceptance it was measured at
    command: str  # that made it
    data: Mapping[str, object]  # where the prompts came from, their hash, how many prompts and records
    recipe: Mapping[str, object]  # how it was optimised
    metrics: Mapping[str, object]  # on prompts that training did not see

    def check(self, path: Path, *, host: str, weights_hash: str, block_length: int) -> None:
        """Raise UsageError unless it was trained for this model and block length."""
        make = f"train one for it: {how_to_make(host, block_length)}"
        if self.weights_hash != weights_hash:
            raise UsageError(
                f"filter: '{path}' was trained for model '{self.host}' (weights {self.weights_hash[:12]}), "
                f"got model '{host}' (weights {weights_hash[:12]}); {make}"
            )
        if self.block_length != block_length:
            raise UsageError(
                f"filter: '{path}' was trained for block-length {self.block_length}, got block-length {block_length}; "
                f"use --block-length {self.block_length}, or {make}"
            )


class StoredFilter(NamedTuple):
    """A filter file's content, checked."""

    path: Path
    card: FilterCard
    weights: dict[str, Tensor]
    sha256: str  # of the file

    def build(self) -> Filter:
        """The network, float32 on the CPU."""
        net = Filter(self.card.block_length, self.card.depth, self.card.inputs)
        net.load_state_dict(self.weights)
        return net


def how_to_make(host: str, block_length: int) -> str:
    """The commands that make a filter for a model and a block length."""
    return (
        f"'l2pd-bench filter collect --model {host} --block-length {block_length} --prompts FILE.jsonl "
        "--output FOLDER', then 'l2pd-bench filter train FOLDER -o FILE', and use learn2pd:filter=FILE"
    )


def shipped_filter(context: Context) -> Path:
    """The filter in this package for the model of a decode; the one for its block length, if there are several."""
    for_model = [s for s in map(read_filter, shipped_filters()) if s.card.weights_hash == context.weights_hash]
    for_model.sort(key=lambda stored: stored.card.block_length != context.block_length)
    if not for_model:
        raise UsageError(
            f"filter: none is shipped for model '{context.host}' (weights {context.weights_hash[:12]}); "
            f"train one: {how_to_make(context.host, context.block_length)}"
        )
    return for_model[0].path


@functools.cache
def shipped_filters() -> tuple[Path, ...]:
    """All filters in this package."""
    return tuple(sorted(Path(__file__).parent.glob("learn2pd_*.safetensors")))


@functools.cache
def read_filter(path: Path) -> StoredFilter:
    """Read a filter file, strictly; UsageError if it is none.

    A file is read once in a process: a run goes on with the filter it began with, the one
    its records name, whatever happens to the file meanwhile.
    """
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, "pt", device="cpu") as stored:
            card = _card(stored.metadata() or {})
            weights = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        _check_weights(card, weights)
    except OSError as error:
        raise UsageError(
            f"filter: '{path}' cannot be read ({error.strerror}), expected a file made by 'l2pd-bench filter train'"
        ) from error
    except (SafetensorError, ValueError) as error:
        raise UsageError(
            f"filter: '{path}' is no filter ({error}), expected a file made by 'l2pd-bench filter train'"
        ) from error
    return StoredFilter(path, card, weights, sha256)


def dump_filter(net: Filter, card: FilterCard) -> bytes:
    """A filter file's content. The metadata has one key, as safetensors writes several in no fixed order."""
    weights = {name: w.detach().to("cpu", torch.float32).contiguous() for name, w in net.state_dict().items()}
    data: bytes = save(weights, {"card": json.dumps({"format": FORMAT, **asdict(card)})})
    return data


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (float, int), "bool": (bool,),
    "tuple[str, ...]": (list,), "Mapping[str, object]": (dict,),
}  # fmt: skip


def _card(metadata: Mapping[str, str]) -> FilterCard:
    """The card in a file's metadata; ValueError if it is not exactly one."""
    values = json.loads(metadata.get("card", "{}"))
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"its metadata has no card of format '{FORMAT}'")
    kinds = {f.name: _KINDS[str(f.type)] for f in fields(FilterCard)}
    if different := sorted(kinds.keys() ^ values.keys()):
        raise ValueError(f"its card lacks, or should lack, {', '.join(different)}")
    for name, value in values.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
            raise ValueError(f"its {name} is {value!r}, of the wrong type")
    card = FilterCard(**{**values, "inputs": tuple(values["inputs"])})
    for name, ok in {
        "block_length": card.block_length >= 1,
        "gen_length": card.gen_length >= 1,
        "depth": card.depth in DEPTHS,
        "inputs": card.inputs == tuple(i for i in INPUTS if i in card.inputs),
        "tau": 0.0 <= card.tau <= 1.0,
    }.items():
        if not ok:
            raise ValueError(f"its {name} is {values[name]!r}, out of range")
    return card


def _check_weights(card: FilterCard, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are those of the card's network, finite."""
    with torch.device("meta"):
        wanted = {name: w.shape for name, w in Filter(card.block_length, card.depth, card.inputs).state_dict().items()}
    if {name: w.shape for name, w in weights.items()} != wanted:
        got = ", ".join(f"{name} {tuple(w.shape)}" for name, w in sorted(weights.items()))
        raise ValueError(f"its tensors ({got}) are not those of the network its metadata describes")
    for name, w in weights.items():
        if w.dtype != torch.float32 or not math.isfinite(float(w.abs().sum())):
            raise ValueError(f"its {name} is not finite float32")
