"""`l2pd-bench filter train` and `filter evaluate`: a Learn2PD filter from a collection, and what it is worth.

The authors' recipe (arXiv 2509.25188; their notebook): binary cross-entropy over all
positions of the block, committed ones included, AdamW at 0.003, full batches. They train
40 000 iterations and keep the last weights, on a split by record; here the split is by
prompt, as neighbouring steps of one prompt are nearly equal, training stops when the
validation loss does, and the best weights are kept. The figures are of a third part that
neither has seen.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from l2pd_bench.durable import make_folder, replace_file, reported
from l2pd_bench.errors import UsageError
from l2pd_bench.filter_metrics import Evaluation, evaluate_filter
from l2pd_bench.filter_records import Collection, Records, read_collection
from l2pd_bench.strategies.filter_file import DEPTHS, INPUTS, Filter, FilterCard, dump_filter, read_filter

TEST_SHARE, VALIDATION_SHARE = 0.1, 0.1  # of the prompts
FEWEST_PROMPTS = 10  # so that every part of the split has one
BATCH = 16_384  # records of an iteration; a collection that is not larger is trained on in full batches
CHECK_EVERY = 25  # iterations between two looks at the validation loss


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a `filter train` command asks for; the defaults are the paper's filter. Validated on creation."""

    depth: int = 2
    masked_only: bool = False  # the loss leaves out committed positions
    inputs: tuple[str, ...] = ()  # beyond the confidences
    tau: float = 0.96
    iterations: int = 8_000  # at most
    patience: int = 1_000  # iterations without a better validation loss, after which it stops
    learning_rate: float = 0.003
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be trained."""
        if self.depth not in DEPTHS:
            raise UsageError(f"depth: got {self.depth}, expected one of {', '.join(map(str, DEPTHS))}")
        if unknown := [name for name in self.inputs if name not in INPUTS]:
            raise UsageError(f"inputs: got '{unknown[0]}', expected {', '.join(INPUTS)} with commas between them")
        _check_tau(self.tau)
        for name in ("iterations", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning-rate: got {self.learning_rate}, expected a finite number > 0")
        if self.seed < 0:
            raise UsageError(f"seed: got {self.seed}, expected at least 0")

    def command(self, folder: Path, output: Path) -> str:
        """These options as a command, those with their defaults left out."""
        words = ["l2pd-bench", "filter", "train", str(folder), "-o", str(output)]
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                words += [f"--{option.name.replace('_', '-')}", *([] if value is True else [text])]
        return shlex.join(words)


class Split(NamedTuple):
    """Records by prompt: no prompt is in two parts."""

    train: Records
    validation: Records
    test: Records


class Fit(NamedTuple):
    """What an optimisation came to."""

    net: Filter
    iteration: int  # whose weights these are
    validation_loss: float


class Trained(NamedTuple):
    """A filter that has been written, and its figures on the test part."""

    path: Path
    evaluation: Evaluation
    iteration: int


def train_filter(folder: Path, output: Path, options: TrainOptions) -> Trained:
    """Train a filter on a collection and write it to `output`, which is tried before the training."""
    if output.is_dir():
        raise UsageError(f"output: got '{output}' (a folder), expected the file to write")
    with reported("write", output, "choose another file with -o"):
        make_folder(output.parent)
    collection = read_collection(folder)
    manifest = collection.manifest
    split = split_by_prompt(collection.records, manifest.prompts, options.seed)
    net, iteration, loss = fit(split, manifest.block_length, options)
    evaluation = evaluate_filter(net, split.test, options.tau)
    card = FilterCard(
        host=manifest.host,
        weights_hash=manifest.weights_hash,
        block_length=manifest.block_length,
        gen_length=manifest.gen_length,
        depth=options.depth,
        inputs=net.inputs,
        masked_only=options.masked_only,
        tau=options.tau,
        command=options.command(folder, output),
        data={
            "sources": [asdict(source) for source in manifest.sources],
            "prompts": manifest.prompts,
            "records": len(collection.records.step),
            "command": manifest.command,
        },
        recipe={
            "optimizer": "AdamW",
            "learning_rate": options.learning_rate,
            "iterations": options.iterations,
            "patience": options.patience,
            "records_per_iteration": min(BATCH, len(split.train.step)),
            "seed": options.seed,
            "kept_iteration": iteration,
            "validation_loss": round(loss, 6),
        },
        metrics={"held out by prompt": evaluation.as_json()},
    )
    with reported("write", output, "choose another file with -o"):
        replace_file(output, dump_filter(net, card))
    return Trained(output, evaluation, iteration)


def evaluate(path: Path, folder: Path, tau: float | None = None) -> tuple[Evaluation, str]:
    """A filter on all of a collection, at `tau` or else at its own; and a warning, '' if there is none.

    Raises UsageError if the collection is of another model or block length.
    """
    stored, collection = read_filter(path), read_collection(folder)
    manifest = collection.manifest
    stored.card.check(path, host=manifest.host, weights_hash=manifest.weights_hash, block_length=manifest.block_length)
    if tau is not None:
        _check_tau(tau)
    evaluation = evaluate_filter(stored.build(), collection.records, stored.card.tau if tau is None else tau)
    return evaluation, _trained_on(stored.card, collection)


def split_by_prompt(records: Records, prompts: int, seed: int) -> Split:
    """Shuffle the prompts and part them; at least one in each part."""
    if prompts < FEWEST_PROMPTS:
        raise UsageError(
            f"collection: got {prompts} prompts, expected at least {FEWEST_PROMPTS}; collect more with --limit"
        )
    order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
    test, validation = int(TEST_SHARE * prompts), int(VALIDATION_SHARE * prompts)
    parts = order[test + validation :], order[test : test + validation], order[:test]
    return Split(*(records.at(torch.isin(records.prompt, part)) for part in parts))


def fit(split: Split, block_length: int, options: TrainOptions) -> Fit:
    """Optimise a filter; the weights with the least validation loss."""
    draws = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        net = Filter(block_length, options.depth, tuple(name for name in INPUTS if name in options.inputs))
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.learning_rate)
    best, kept, weights = float("inf"), 0, _copy(net)
    for iteration in range(options.iterations + 1):
        if iteration % CHECK_EVERY == 0 or iteration == options.iterations:
            with torch.no_grad():
                loss = float(_loss(net, split.validation, options))
            if loss < best:
                best, kept, weights = loss, iteration, _copy(net)
            if iteration == options.iterations or iteration - kept >= options.patience:
                break
        batch = split.train
        if len(batch.step) > BATCH:
            batch = batch.at(torch.randint(len(batch.step), (BATCH,), generator=draws))
        optimizer.zero_grad(set_to_none=True)
        _loss(net, batch, options).backward()
        optimizer.step()
    net.load_state_dict(weights)
    return Fit(net.eval(), kept, best)


def _loss(net: Filter, records: Records, options: TrainOptions) -> Tensor:
    """Mean binary cross-entropy over all positions, or over those that were still masked."""
    logits = net(records.confidence, records.candidates, records.step)
    weight = records.candidates.float() if options.masked_only else None
    loss = F.binary_cross_entropy_with_logits(logits, records.label.float(), weight, reduction="sum")
    return loss / (records.label.numel() if weight is None else weight.sum())


def _copy(net: Filter) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in net.state_dict().items()}


def _check_tau(tau: float) -> None:
    if not 0.0 <= tau <= 1.0:
        raise UsageError(f"tau: got {tau}, expected a probability in [0, 1]")


def _trained_on(card: FilterCard, collection: Collection) -> str:
    """A warning if the filter was trained on prompts of this collection."""
    known = card.data.get("sources")
    hashes = {source.get("sha256") for source in known if isinstance(source, dict)} if isinstance(known, list) else {}
    shared = [source.name for source in collection.manifest.sources if source.sha256 in hashes]
    return f"the filter was trained on these prompts ({', '.join(shared)}): it has seen most answers" if shared else ""
