"""`l2pd-bench filter collect`: what the oracle sees, recorded, so that a filter can be trained on it.

For every prompt the reference is the model's own decode, one token per step. Then the
oracle decodes again, and at each of its steps the block is recorded: every position's
confidence, and whether the prediction there is the reference's token. This is the
authors' way (arXiv 2509.25188), with two differences: prompts are in the host's chat
template, as they are when the filter is used, and a stuck block's last step is not
recorded twice.

The strategies come from the registry. What a filter makes of the records is not known here.
"""

from __future__ import annotations

import hashlib
import json
import random
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.filter_records import FORMAT, Manifest, Records, Source, open_collection, part_path, write_part
from l2pd_bench.hosts.base import Host
from l2pd_bench.mini_data import Generator
from l2pd_bench.registry import load_host, load_strategy, load_task
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy
from l2pd_bench.tasks.base import Item

REFERENCES = ("decode", "stop")
TRAINING, TEST, FILE = "training pool", "test set", "file"
DRAWS = 50  # per prompt that is wanted: a small training pool is exhausted, not waited for


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """What a `filter collect` command asks for; validated on creation."""

    output: Path
    task: tuple[str, ...] = ()
    prompts: Path | None = None  # JSON lines with a "prompt"
    data_dir: Path | None = None
    model: str = "mini"
    revision: str | None = None
    limit: int = 128  # prompts of each task, and of the file
    gen_length: int = 128
    block_length: int = 32
    batch_size: int = 4  # the fastest on a CPU
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    eot: str = "decode"  # how the reference is decoded; `stop` takes what is behind its first EoT to be EoT

    def __post_init__(self) -> None:
        """Raise UsageError for numbers out of range, no prompts, and tasks given twice."""
        for name in ("limit", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise UsageError(f"seed: got {self.seed}, expected at least 0")
        if not self.task and self.prompts is None:
            raise UsageError("prompts: got none, expected at least one --task NAME or --prompts FILE.jsonl")
        if twice := [name for name in self.task if self.task.count(name) > 1]:
            raise UsageError(f"task: got '{twice[0]}' twice, expected each once")
        if self.eot not in REFERENCES:
            raise unknown("eot", self.eot, REFERENCES)
        self.settings()

    def settings(self) -> DecodeSettings:
        """Of the oracle's decode; no cache."""
        return DecodeSettings(gen_length=self.gen_length, block_length=self.block_length)

    def command(self) -> str:
        """These options as a command, those with their defaults left out."""
        words = ["l2pd-bench", "filter", "collect"]
        for name in self.task:
            words += ["--task", name]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in ("task", "output") and value != option.default:
                words += [f"--{option.name.replace('_', '-')}", str(value)]
        return shlex.join([*words, "--output", str(self.output)])


class Outcome(NamedTuple):
    """How a `filter collect` ended."""

    message: str
    exit_code: int


def collect(options: CollectOptions, shard: str = "1/1", console: Console | None = None) -> Outcome:
    """Record what is not recorded yet of this shard's share of the batches, in `options.output`.

    `shard`: "I/N", the batches whose number is I - 1 modulo N; one process for each.
    Ctrl-C ends it, dropping the batch under way; the same command continues it.
    """
    number, shards = _parse_shard(shard)
    console = console or Console(stderr=True)
    host = load_host(options.model, device=options.device, dtype=options.dtype, revision=options.revision)
    drawn = _draw(options, host.is_chat, console)
    # Before anything is written:
    prompts = [host.encode(p.text, p.prefix, chat=p.chat) for _, prompts in drawn for p in prompts]
    manifest = Manifest(
        format=FORMAT,
        model=options.model,
        host=host.name,
        weights_hash=host.weights_hash,
        dtype=str(host.dtype).removeprefix("torch."),
        gen_length=options.gen_length,
        block_length=options.block_length,
        batch_size=options.batch_size,
        limit=options.limit,
        seed=options.seed,
        eot=options.eot,
        sources=[source for source, _ in drawn],
        command=options.command(),
    )
    open_collection(options.output, manifest)
    mine = range(number - 1, manifest.parts, shards)
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TextColumn("batches"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(mine))
        try:
            for index in mine:
                if not part_path(options.output, index).exists():
                    first = index * options.batch_size
                    batch = prompts[first : first + options.batch_size]
                    write_part(options.output, index, manifest, _record(host, batch, first, options))
                progress.advance(bar)
        except KeyboardInterrupt:
            again = options.command() + (f" --shard {shard}" if shards > 1 else "")
            return Outcome(f"interrupted; to continue: {again}", 130)
    done = sum(part_path(options.output, i).exists() for i in range(manifest.parts))
    return Outcome(f"collected: {options.output}: {done} of {manifest.parts} parts of {manifest.prompts} prompts", 0)


def _parse_shard(text: str) -> tuple[int, int]:
    number, slash, shards = text.partition("/")
    if slash and number.isdecimal() and shards.isdecimal() and 1 <= int(number) <= int(shards):
        return int(number), int(shards)
    raise UsageError(f"shard: got '{text}', expected I/N with I from 1 to N, such as 1/4")


# ------------------------------------------------------------------ prompts


class Prompt(NamedTuple):
    """A prompt as a host is asked it."""

    text: str
    prefix: str = ""
    chat: bool | None = None


def _draw(options: CollectOptions, is_chat: bool, console: Console) -> list[tuple[Source, list[Prompt]]]:
    """The prompts of every source, each text once over all of them, so that a split by prompt is one."""
    seen: set[str] = set()
    drawn = []
    for name in options.task:
        task = load_task(name, data_dir=options.data_dir, chat=is_chat)
        chat = task.prompt_format == "chat"
        items: Iterator[Item]
        if isinstance(task, Generator):
            rng = random.Random(f"filter/{options.seed}/{name}")
            items = (task.training_item(rng) for _ in range(DRAWS * options.limit))
            kind = TRAINING
        else:
            items, kind = iter(task.items()), TEST
            console.print(
                f"note: {name} has test items only: do not judge a filter trained on them by {name}",
                style="yellow",
                markup=False,
            )
        prompts = _fresh((Prompt(item.prompt, item.prefix, chat) for item in items), options.limit, seen)
        drawn.append((_source(name, kind, prompts), prompts))
    if options.prompts is not None:
        prompts = _fresh(map(Prompt, _read_prompts(options.prompts)), options.limit, seen)
        drawn.append((_source(options.prompts.name, FILE, prompts), prompts))
    if not any(prompts for _, prompts in drawn):
        raise UsageError(f"task: got {', '.join(options.task)} without any item, expected prompts to decode")
    return drawn


def _fresh(prompts: Iterable[Prompt], limit: int, seen: set[str]) -> list[Prompt]:
    """The first `limit` prompts whose texts are not in `seen`, which they are put into."""
    fresh: list[Prompt] = []
    for prompt in prompts:
        if len(fresh) == limit:
            break
        if prompt.text + prompt.prefix not in seen:
            seen.add(prompt.text + prompt.prefix)
            fresh.append(prompt)
    return fresh


def _read_prompts(path: Path) -> list[str]:
    """The "prompt" of every line of a JSONL file."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"prompts: '{path}' cannot be read ({error}); expected a file of JSON lines") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            text = json.loads(line)["prompt"]
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f'prompts: {path}, line {number}: got {line!r:.60}, expected an object with a "prompt"'
            ) from error
        if not isinstance(text, str) or not text:
            raise UsageError(f"prompts: {path}, line {number}: got the prompt {text!r:.60}, expected a text")
        prompts.append(text)
    if not prompts:
        raise UsageError(f"prompts: '{path}' is empty, expected JSON lines")
    return prompts


def _source(name: str, kind: str, prompts: Sequence[Prompt]) -> Source:
    digest = hashlib.sha256(json.dumps([p.text + p.prefix for p in prompts]).encode()).hexdigest()
    return Source(name=name, kind=kind, prompts=len(prompts), sha256=digest)


# ------------------------------------------------------------------ records


@dataclass(frozen=True)
class Recorder(Strategy):
    """Another strategy, which is shown the reference, and what it was shown."""

    name: ClassVar[str] = "recorder"
    uses_reference: ClassVar[bool] = True
    inner: Strategy
    seen: list[list[tuple[int, int, Tensor, Tensor, Tensor]]] = field(default_factory=list)  # by sample, in their order

    def begin(self, context: Context) -> Select:
        """The other strategy's rule, with every view kept."""
        rule = self.inner.begin(context)
        seen: list[tuple[int, int, Tensor, Tensor, Tensor]] = []
        self.seen.append(seen)

        def select(view: StepView) -> Decision:
            assert view.reference is not None  # the engine's promise to a rule that uses it
            label = view.tokens == view.reference
            seen.append((view.start, view.step, view.confidence, label, view.candidates))
            return rule(view)

        return select


def _record(host: Host, prompts: Sequence[list[int]], first: int, options: CollectOptions) -> Records:
    """The records of one batch, ordered by prompt, block and step; `first` is the number of its first prompt."""
    settings = options.settings()
    seeds = [0] * len(prompts)  # nothing is drawn at temperature 0
    baseline = decode(host, load_strategy("fixed-step")[0], prompts, seeds, replace(settings, eot=options.eot))
    recorder = Recorder(load_strategy("oracle")[0])  # type: ignore[abstract]  # it has begin() instead of select()
    decode(host, recorder, prompts, seeds, settings, [sample.output_ids for sample in baseline.samples])
    start = max(map(len, prompts))
    steps = []
    for place, views in enumerate(recorder.seen, start=first):
        for column, step, confidence, label, candidates in views:
            block = (column - start) // settings.block_length
            seen = Records(confidence, label, candidates, *(torch.tensor([x]) for x in (step, block, place)))
            steps.append(Records(*(part.cpu() for part in seen)))
    return Records(*map(torch.cat, zip(*steps, strict=True)))
