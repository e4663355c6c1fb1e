"""Reads runs: `<root>/<task>/<slug>--<hash8>/` with `run.json` and `samples.jsonl`.

Reading neither writes nor locks, so a run may be read while it is written (`writer.py`).
What is in a record is `schema.py`'s affair.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from l2pd_bench.durable import reported
from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.schema import BrokenJson, Manifest, Sample, Totals, parse_manifest, parse_sample
from l2pd_bench.seal import check_line, check_manifest, hash_of, run_id
from l2pd_bench.specs import slug

MANIFEST = "run.json"
SAMPLES = "samples.jsonl"

_UNSHOWN = ((b'"output_ids": [', b"]"), (b'"full_text": "', b'", "text": "'))  # where a report's unread values stand
_SET_ASIDE = re.compile(r"\.old-\d{8}T\d+Z$")


@dataclass(frozen=True)
class Run:
    """A run as read: of a sample tried again after an error, the last try."""

    folder: Path
    manifest: Manifest
    samples: tuple[Sample, ...]
    intact_bytes: int  # length of samples.jsonl without a torn last line
    torn_bytes: int  # length of that torn line

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The samples by doc_id, in the order of these."""
        return {s.doc_id: s for s in sorted(self.samples, key=lambda s: s.doc_id)}

    @cached_property
    def timed(self) -> dict[tuple[str, str], Sample]:
        """The samples whose times count, by session and doc_id, in the order of the latter."""
        sessions = [segment.session for segment in self.manifest.segments]
        return {(sessions[s.segment], s.doc_id): s for s in self.by_id.values() if s.status == "ok" and s.timed}


def run_folder(root: Path, manifest: Manifest) -> Path:
    """Where a run is kept under the results folder `root`."""
    name = f"{manifest.strategy.slug}--{manifest.protocol_hash[:8]}"
    return root / slug(str(manifest.protocol["task"])) / name


def load_runs(root: Path, *, whole: bool = True) -> list[Run]:
    """Every run at or under `root`, ordered by folder; those that `--restart` set aside are left out.

    `whole`: see `read_run`.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "no such folder"
        raise UsageError(f"results: got '{root}' ({what}), expected a folder of runs; `l2pd-bench run` makes one")
    runs = []
    with reported("read", root, "check its permissions"):
        for folder, children, _ in os.walk(root, onerror=_raise):
            children[:] = sorted(c for c in children if not _SET_ASIDE.search(c) and not c.startswith("."))
            run = read_run(Path(folder), whole=whole)
            if run is not None:
                runs.append(run)
    if not runs:
        raise UsageError(f"results: got '{root}' without any run, expected {MANIFEST} below it; use `l2pd-bench run`")
    return runs


def read_run(folder: Path, *, whole: bool = True) -> Run | None:
    """The run in `folder`; None where none has begun. Changes nothing, and asks for no lock.

    Without `whole` the samples lack what a report does not show and what takes most of the
    memory: `output_ids` and `full_text` are empty. Raises RecordError for a record that is
    broken, or is not as it was written.
    """
    path = folder / MANIFEST
    with reported("read", folder, "check its permissions"), _opened(folder / SAMPLES) as file:
        # Samples first: a manifest read later knows the segment of every sample read before it.
        size = os.fstat(file.fileno()).st_size if file else 0
        text = path.read_bytes() if path.exists() else b""
        if not text and not size:
            return None
        if not text:
            raise RecordError(f"{path}: missing or empty beside {SAMPLES}; restore it, or begin anew with --restart")
        manifest = parse_manifest(text, str(path))
        _check_identity(manifest, str(path))
        samples, intact = _read_samples(folder / SAMPLES, file, size, manifest, whole) if file else ({}, 0)
    if manifest.totals is not None and not _are_totals(manifest, samples, is_torn=size > intact):
        raise RecordError(f"{path}: its totals are not those of {SAMPLES}; restore both, or begin anew with --restart")
    return Run(folder, manifest, tuple(samples.values()), intact, size - intact)


def _are_totals(manifest: Manifest, samples: Mapping[str, Sample], *, is_torn: bool) -> bool:
    """Whether a finished run has the samples it had; of a torn file the last batch may be missing."""
    lost = manifest.totals.samples - len(samples) if manifest.totals else 0
    if is_torn and 0 < lost <= int(manifest.protocol["batch_size"] or 1):
        return True
    return manifest.totals == totals(samples.values())


def totals(samples: Iterable[Sample]) -> Totals:
    """The sums that a finished run stores."""
    every = list(samples)
    return Totals(
        samples=len(every),
        correct=sum(s.correct for s in every),
        net_tokens=sum(s.tokens.net for s in every),
        nfe=sum(s.nfe.total for s in every),
        decode_seconds=float(sum(s.seconds.decode for s in every)),
    )


def _check_identity(manifest: Manifest, place: str) -> None:
    """Raise RecordError unless the manifest is as it was written, and its hashes are of what it says."""
    check_manifest(manifest, place)
    expected = {"protocol_hash": hash_of(manifest.protocol)}
    expected["run_id"] = run_id(expected["protocol_hash"], manifest.strategy.spec, manifest.strategy.code_hash)
    for name, value in expected.items():
        if (got := getattr(manifest, name)) != value:
            raise RecordError(f"{place}: field '{name}': got {got}, expected {value}, the hash of what the record says")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    if not path.exists():
        yield None
        return
    with path.open("rb") as file:
        yield file


def _read_samples(
    path: Path, file: BinaryIO, size: int, manifest: Manifest, whole: bool
) -> tuple[dict[str, Sample], int]:
    """The samples by doc_id in the first `size` bytes, and the length of the part of these that is intact."""
    samples: dict[str, Sample] = {}
    intact, seal = 0, manifest.run_id
    for number, line in enumerate(file, start=1):
        if intact + len(line) > size or not line.endswith(b"\n"):
            break  # a tail without its newline was never acknowledged
        place = f"{path}, line {number}"
        text = line[:-1]
        try:
            sample = parse_sample(text if whole else _shortened(text), place)
        except BrokenJson:
            if intact + len(line) == size:
                break  # a torn last line
            raise
        if not 0 <= sample.segment < (count := len(manifest.segments)):
            raise RecordError(f"{place}: field 'segment': got {sample.segment}, expected one of {count} in {MANIFEST}")
        check_line(text, sample, seal, place)
        add_sample(samples, sample, place)
        intact += len(line)
        seal = sample.seal
    return samples, intact


def _shortened(line: bytes) -> bytes:
    """A line with empty values where a report shows none; what stands between quotes holds no unescaped quote."""
    for begin, end in _UNSHOWN:
        at = line.find(begin) + len(begin)
        stop = line.find(end, at)
        if at >= len(begin) and stop >= 0:
            line = line[:at] + line[stop:]
    return line


def add_sample(samples: dict[str, Sample], sample: Sample, place: str) -> None:
    """Put a sample in its place; only one that ended in an error may be recorded again."""
    earlier = samples.pop(sample.doc_id, None)
    if earlier is not None and earlier.status == "ok":
        raise RecordError(f"{place}: got '{sample.doc_id}' a second time, expected each sample once")
    samples[sample.doc_id] = sample


def _raise(failure: OSError) -> None:
    raise failure
