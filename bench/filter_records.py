"""A collection: the folder of records that a filter is trained on, `collect.json` and one part for each batch.

    collect.json              what was collected, and the command that continues it
    part-00012.safetensors    the records of one batch of prompts

A record is one step of one prompt: the block as the oracle saw it. How records come
about is `filters.py`'s affair, what is learned from them `filter_train.py`'s.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from l2pd_bench.durable import make_folder, replace_file, reported
from l2pd_bench.errors import RecordError, UsageError

FORMAT = "l2pd-bench collection 1"
MANIFEST = "collect.json"


class Records(NamedTuple):
    """R records of blocks of N positions."""

    confidence: Tensor  # (R, N) float32: of the model's pick, at committed positions too
    label: Tensor  # (R, N) bool: whether the pick is the reference's token
    candidates: Tensor  # (R, N) bool: what was still masked
    step: Tensor  # (R,) int64: forwards already spent on the block
    block: Tensor  # (R,) int64: which block of the canvas
    prompt: Tensor  # (R,) int64: which prompt of the collection

    def at(self, chosen: Tensor) -> Records:
        """The records that a bool (R,) or int64 index chooses."""
        return Records(*(part[chosen] for part in self))


_SHAPES = {"confidence": (2, torch.float32), "label": (2, torch.bool), "candidates": (2, torch.bool)} | dict.fromkeys(
    ("step", "block", "prompt"), (1, torch.int64)
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where some of the prompts came from."""

    name: str  # of the task, or of the file
    kind: str
    prompts: int
    sha256: str  # of the prompts as JSON


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `collect.json` holds. All of it but the command decides the records."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    format: str
    model: str  # as the user wrote it
    host: str
    weights_hash: str
    dtype: str
    gen_length: int
    block_length: int
    batch_size: int
    limit: int
    seed: int
    eot: str  # of the reference's decode
    sources: list[Source]
    command: str  # that continues the collection

    @property
    def prompts(self) -> int:
        """How many there are."""
        return sum(source.prompts for source in self.sources)

    @property
    def parts(self) -> int:
        """How many parts make it whole."""
        return -(-self.prompts // self.batch_size)

    @property
    def identity(self) -> str:
        """Hash of what decides the records; every part names it."""
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()

    def differs_from(self, other: Manifest) -> str:
        """The first setting in which another manifest differs, '' if none."""
        ours, theirs = self._deciding(), other._deciding()
        return next((name for name in ours if ours[name] != theirs[name]), "")

    def _deciding(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != "command"}


_ADAPTER = TypeAdapter(Manifest)


class Collection(NamedTuple):
    """A whole collection, as read."""

    folder: Path
    manifest: Manifest
    records: Records


def open_collection(folder: Path, manifest: Manifest) -> None:
    """Begin a collection in `folder`, or continue the one that is there; UsageError if that is another."""
    if not (folder / MANIFEST).exists():
        with reported("write", folder, "choose another folder with --output"):
            make_folder(folder)
            with suppress(FileNotFoundError):  # another shard, with the same content, was faster
                replace_file(folder / MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n")
    there = read_manifest(folder)
    if key := manifest.differs_from(there):
        raise UsageError(
            f"output: the collection in '{folder}' has {key} {_short(getattr(there, key))}, got "
            f"{_short(getattr(manifest, key))}; repeat its settings, or choose another folder with --output"
        )


def read_manifest(folder: Path) -> Manifest:
    """The settings of the collection in `folder`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"collection: got '{folder}' without {MANIFEST}; 'l2pd-bench filter collect' makes one")
    with reported("read", path, "check its permissions"):
        text = path.read_bytes()
    try:
        manifest = _ADAPTER.validate_json(text)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        where = ".".join(map(str, error["loc"])) or "content"
        raise RecordError(f"{path}: {where}: {error['msg']}; restore the file, or collect into another folder") from (
            failure
        )
    if manifest.format != FORMAT or manifest.batch_size < 1:
        raise RecordError(f"{path}: got format '{manifest.format}', expected '{FORMAT}'; collect into another folder")
    return manifest


def read_collection(folder: Path) -> Collection:
    """A collection with all its parts; UsageError with the command that continues it if any is missing."""
    manifest = read_manifest(folder)
    missing = [i for i in range(manifest.parts) if not part_path(folder, i).exists()]
    if missing:
        raise UsageError(
            f"collection: '{folder}' has {manifest.parts - len(missing)} of {manifest.parts} parts; "
            f"continue it: {manifest.command}"
        )
    parts = [_read_part(folder, i, manifest) for i in range(manifest.parts)]
    return Collection(folder, manifest, Records(*map(torch.cat, zip(*parts, strict=True))))


def part_path(folder: Path, index: int) -> Path:
    """Where a batch's records are kept."""
    return folder / f"part-{index:05d}.safetensors"


def write_part(folder: Path, index: int, manifest: Manifest, records: Records) -> None:
    """Write a part such that it is there as a whole or not at all."""
    path = part_path(folder, index)
    tensors = {name: part.contiguous() for name, part in records._asdict().items()}
    with reported("write", path, "make room, and repeat the command to continue"):
        replace_file(path, save(tensors, {"collection": manifest.identity}))


def _read_part(folder: Path, index: int, manifest: Manifest) -> Records:
    path = part_path(folder, index)
    advice = f"delete it, and continue the collection: {manifest.command}"
    try:
        with safe_open(path, "pt", device="cpu") as stored:
            metadata = stored.metadata() or {}
            records = Records(*(stored.get_tensor(name) for name in Records._fields))
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); {advice}") from error
    if metadata.get("collection") != manifest.identity:
        raise RecordError(f"{path}: is of another collection than the {MANIFEST} beside it; {advice}")
    for name, part in records._asdict().items():
        dimensions, dtype = _SHAPES[name]
        shape = (len(records.step), manifest.block_length)[:dimensions]
        if part.dtype != dtype or part.shape != shape:
            raise RecordError(f"{path}: {name} is {part.dtype} {tuple(part.shape)}, expected {dtype} {shape}; {advice}")
    return records


def _short(value: object) -> str:
    text = ", ".join(f"{s.name} ({s.prompts} prompts)" for s in value) if isinstance(value, list) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
