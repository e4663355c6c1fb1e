"""Reads runs: `<root>/<task>/<slug>--<hash8>/` with `run.json` and `samples.jsonl`.

Reading neither writes nor locks, so a run may be read while it is written (`writer.py`).
What is in a record is `schema.py`'s affair.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from l2pd_bench.durable import reported
from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.schema import BrokenJson, Manifest, Sample, parse_manifest, parse_sample
from l2pd_bench.specs import slug

MANIFEST = "run.json"
SAMPLES = "samples.jsonl"

_SET_ASIDE = re.compile(r"\.old-\d{8}T\d+Z$")


@dataclass(frozen=True)
class Run:
    """A run as read: of a sample tried again after an error, the last try."""

    folder: Path
    manifest: Manifest
    samples: tuple[Sample, ...]
    intact_bytes: int  # length of samples.jsonl without a torn last line
    torn_bytes: int  # length of that torn line


def run_folder(root: Path, manifest: Manifest) -> Path:
    """Where a run is kept under the results folder `root`."""
    name = f"{manifest.strategy.slug}--{manifest.protocol_hash[:8]}"
    return root / slug(str(manifest.protocol["task"])) / name


def load_runs(root: Path) -> list[Run]:
    """Every run at or under `root`, ordered by folder; those that `--restart` set aside are left out."""
    if not root.is_dir():
        what = "a file" if root.exists() else "no such folder"
        raise UsageError(f"results: got '{root}' ({what}), expected a folder of runs; `l2pd-bench run` makes one")
    runs = []
    with reported("read", root, "check its permissions"):
        for folder, children, _ in os.walk(root, onerror=_raise):
            children[:] = sorted(c for c in children if not _SET_ASIDE.search(c) and not c.startswith("."))
            run = read_run(Path(folder))
            if run is not None:
                runs.append(run)
    if not runs:
        raise UsageError(f"results: got '{root}' without any run, expected {MANIFEST} below it; use `l2pd-bench run`")
    return runs


def read_run(folder: Path) -> Run | None:
    """The run in `folder`; None where none has begun. Changes nothing, and asks for no lock."""
    with reported("read", folder, "check its permissions"):
        # Samples first: a manifest read later knows the segment of every sample read before it.
        data = _content(folder / SAMPLES)
        text = _content(folder / MANIFEST)
    if not text and not data:
        return None
    path = folder / MANIFEST
    if not text:
        raise RecordError(f"{path}: missing or empty beside {SAMPLES}; restore it, or begin anew with --restart")
    manifest = parse_manifest(text, str(path))
    samples, intact = _read_samples(folder / SAMPLES, data, len(manifest.segments))
    return Run(folder, manifest, tuple(samples.values()), intact, len(data) - intact)


def _read_samples(path: Path, data: bytes, segments: int) -> tuple[dict[str, Sample], int]:
    """The samples by doc_id, and the length of the part of the file that is intact."""
    *lines, tail = data.split(b"\n")  # a tail without its newline was never acknowledged
    samples: dict[str, Sample] = {}
    intact = 0
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        try:
            sample = parse_sample(line, place)
        except BrokenJson:
            if number == len(lines) and not tail:
                break  # a torn last line
            raise
        if not 0 <= sample.segment < segments:
            raise RecordError(
                f"{place}: field 'segment': got {sample.segment}, expected one of {segments} in {MANIFEST}"
            )
        add_sample(samples, sample, place)
        intact += len(line) + 1
    return samples, intact


def add_sample(samples: dict[str, Sample], sample: Sample, place: str) -> None:
    """Put a sample in its place; only one that ended in an error may be recorded again."""
    earlier = samples.pop(sample.doc_id, None)
    if earlier is not None and earlier.status == "ok":
        raise RecordError(f"{place}: got '{sample.doc_id}' a second time, expected each sample once")
    samples[sample.doc_id] = sample


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _raise(failure: OSError) -> None:
    raise failure
