"""Reads runs: `<root>/<task>/<slug>--<hash8>/` with `run.json` and `samples.jsonl`.

Reading neither writes nor locks, so a run may be read while it is written (`writer.py`).
What is in a record is `schema.py`'s affair.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from l2pd_bench.collector import paused
from l2pd_bench.durable import reported
from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.record_json import BrokenJson, parse_manifest, parse_sample
from l2pd_bench.schema import Entry, Manifest, Sample, Totals, turn_of
from l2pd_bench.seal import EDITED, check_manifest, hash_of, run_id, seal_in, seal_of
from l2pd_bench.specs import slug

MANIFEST = "run.json"
SAMPLES = "samples.jsonl"

_BUFFER = 1 << 20  # bytes; lines have about 2,000
_BATCH = 512  # lines
# Where a report's unread values stand, in the order in which `encode` writes them.
_UNSHOWN = ((b'"output_ids": [', b"]"), (b'"full_text": "', b'", "text": "'))
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
    def doc_ids(self) -> frozenset[str]:
        """The items that are recorded."""
        return frozenset(self.by_id)

    @cached_property
    def timed(self) -> dict[tuple[str, str], Sample]:
        """The samples whose times count, by session and doc_id, in the order of the latter."""
        sessions = [segment.session for segment in self.manifest.segments]
        return {(sessions[s.segment], s.doc_id): s for s in self.by_id.values() if s.status == "ok" and s.timed}


Kind = TypeVar("Kind", Sample, Entry)
ParseMany = Callable[[Sequence[bytes], str, int], list[Kind] | None]


class Folder(NamedTuple, Generic[Kind]):
    """A run's folder as read: the last line of every item by doc_id, in the order of the file."""

    manifest: Manifest
    lines: dict[str, Kind]
    seal: str  # of the last line, or the run's id
    intact_bytes: int
    torn_bytes: int


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
    found = read_folder(folder, lambda line, place, at: parse_sample(line if whole else _shortened(line), place))
    if found is None:
        return None
    return Run(folder, found.manifest, tuple(found.lines.values()), found.intact_bytes, found.torn_bytes)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a run's folder, without a look at its samples; None where no run has begun."""
    path = folder / MANIFEST
    with reported("read", folder, "check its permissions"):
        text = path.read_bytes() if path.exists() else b""
    return parse_manifest(text, str(path)) if text else None


def read_folder(
    folder: Path, parse: Callable[[bytes, str, int], Kind], parse_many: ParseMany[Kind] | None = None
) -> Folder[Kind] | None:
    """What is in a run's folder, with every line as `parse` makes it of its text, place and offset.

    `parse_many` makes the same of lines, the seal above them and their offset, if all is well with them; else None.
    """
    path = folder / MANIFEST
    with reported("read", folder, "check its permissions"), _opened(folder / SAMPLES) as file:
        # Samples first: a manifest read later knows the segment of every sample read before it.
        size = os.fstat(file.fileno()).st_size if file else 0
        manifest = read_manifest(folder)
        if manifest is None and not size:
            return None
        if manifest is None:
            raise RecordError(f"{path}: missing or empty beside {SAMPLES}; restore it, or begin anew with --restart")
        _check_identity(manifest, str(path))
        found: Folder[Kind] = Folder(manifest, {}, manifest.run_id, 0, 0)
        if file:
            with paused():
                found = _read_lines(folder / SAMPLES, file, size, manifest, parse, parse_many)
    if manifest.totals is not None and not _are_totals(manifest, manifest.totals, found):
        raise RecordError(f"{path}: its totals are not those of {SAMPLES}; restore both, or begin anew with --restart")
    return found


def _are_totals(manifest: Manifest, stored: Totals, found: Folder[Kind]) -> bool:
    """Whether a finished run has the samples it had; of a torn file the last batch may be missing."""
    lost = stored.samples - len(found.lines)
    if found.torn_bytes and 0 < lost <= turn_of(int(manifest.protocol["batch_size"] or 1)):
        return True
    sums = totals(found.lines.values())
    # Since Python 3.12 floats are added up with less rounding: of a million samples 1e-10 of the sum at most.
    is_sum = math.isclose(stored.decode_seconds, sums.decode_seconds, rel_tol=1e-9)
    return is_sum and stored == replace(sums, decode_seconds=stored.decode_seconds)


def totals(samples: Iterable[Sample | Entry]) -> Totals:
    """The sums that a finished run stores."""
    counts = [sample.counts for sample in samples]
    correct, net_tokens, nfe, decode_s = zip(*counts, strict=True) if counts else ((), (), (), ())
    return Totals(
        samples=len(counts),
        correct=sum(correct),
        net_tokens=sum(net_tokens),
        nfe=sum(nfe),
        decode_seconds=float(sum(decode_s)),
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
    with path.open("rb", buffering=_BUFFER) as file:
        yield file


def _read_lines(
    path: Path,
    file: BinaryIO,
    size: int,
    manifest: Manifest,
    parse: Callable[[bytes, str, int], Kind],
    parse_many: ParseMany[Kind] | None,
) -> Folder[Kind]:
    """The lines in the first `size` bytes, of which a last one may be torn."""
    lines: dict[str, Kind] = {}
    intact, seal, number, known = 0, manifest.run_id, 0, range(len(manifest.segments))
    while batch := list(islice(file, _BATCH)):
        many = parse_many(batch, seal, intact) if parse_many else None
        if many is not None:
            new = {line.doc_id: line for line in many}
            end = intact + sum(map(len, batch))
            is_new = len(new) == len(many) and lines.keys().isdisjoint(new)
            if is_new and end <= size and all(line.segment in known for line in many):
                lines |= new
                intact, seal, number = end, seal_in(batch[-1]), number + len(batch)
                continue
        for text in batch:  # one after the other, to say what is wrong, and where
            number += 1
            end = intact + len(text)
            if end > size or not text.endswith(b"\n"):
                return Folder(manifest, lines, seal, intact, size - intact)  # that was never acknowledged
            place = f"{path}, line {number}"
            own = seal_of(text, seal)
            try:
                if own is None:
                    parse_sample(text, place)  # which says more of what is wrong than that it was edited
                line = parse(text, place, intact)
            except BrokenJson:
                if end == size:
                    return Folder(manifest, lines, seal, intact, size - intact)  # a torn last line
                raise
            if line.segment not in known:
                expected = f"one of {len(known)} in {MANIFEST}"
                raise RecordError(f"{place}: field 'segment': got {line.segment}, expected {expected}")
            if own is None:
                raise RecordError(
                    f"{place}: its seal does not fit, or a line before it was added, dropped or moved: {EDITED}"
                )
            if line.doc_id in lines:
                refuse_second(lines.pop(line.doc_id), line.doc_id, place)
            lines[line.doc_id] = line
            intact, seal = end, own
    return Folder(manifest, lines, seal, intact, size - intact)


def _shortened(line: bytes) -> bytes:
    """A line with empty values where a report shows none; what stands between quotes holds no unescaped quote."""
    kept, at = b"", 0
    for begin, end in _UNSHOWN:
        start = line.find(begin, at)
        stop = line.find(end, start + len(begin))
        if 0 <= start < stop:
            kept += line[at : start + len(begin)]
            at = stop
    return kept + line[at:]


def refuse_second(earlier: Sample | Entry | None, doc_id: str, place: str) -> None:
    """Raise RecordError if an item is recorded already; one that ended in an error may be recorded again."""
    if earlier is not None and earlier.status == "ok":
        raise RecordError(f"{place}: got '{doc_id}' a second time, expected each sample once")


def _raise(failure: OSError) -> None:
    raise failure
