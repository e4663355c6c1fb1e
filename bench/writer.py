"""Writes runs so that a crash, a full disk or a second process never damages what is recorded.

One writer at a time, by a lock. Samples are appended and never rewritten; the manifest is
replaced whole. The order of writing is folder, lock, `run.json`, `samples.jsonl`: a crash
leaves, at worst, an empty folder or a torn last line, and both are continued. It does not
know how samples come about, nor what a strategy or a task is.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from l2pd_bench.durable import AppendFile, acquire_lock, make_folder, replace_file, reported, sync_folder
from l2pd_bench.errors import RecordError
from l2pd_bench.record_json import encode, parse_manifest, parse_sample
from l2pd_bench.recorded import Recorded, entry_of, read_entries, read_entry
from l2pd_bench.records import MANIFEST, SAMPLES, Folder, read_folder, refuse_second, run_folder, totals
from l2pd_bench.schema import Alone, Ending, Entry, Manifest, Sample, Segment, Warmup, utc_now
from l2pd_bench.seal import seal_manifest, seal_sample

_KEPT = "nothing recorded so far is lost: free space or mend the disk, and repeat the command to continue"
_ELSEWHERE = "make room, or the folder writable, or choose another with --output"


def new_session() -> str:
    """A fresh name for this process, to give to every segment it starts."""
    return secrets.token_hex(8)


def open_run(root: Path, manifest: Manifest, *, restart: bool = False) -> RunWriter:
    """Begin the run that `manifest` describes under `root`, or continue it, as its only writer.

    A finished run is left untouched until a segment is started. With `restart`, what the
    folder holds is renamed aside, unread, and the run begins anew.
    """
    folder = run_folder(root, manifest)
    with reported("write there", folder, _ELSEWHERE):
        lock = acquire_lock(folder)
        set_aside = None
        try:
            if restart and ((folder / MANIFEST).exists() or (folder / SAMPLES).exists()):
                set_aside = _aside(folder)
                folder.rename(set_aside)
                sync_folder(folder.parent)
                old_lock, lock = lock, acquire_lock(folder)
                os.close(old_lock)
            held = read_folder(folder, read_entry, read_entries)
            if held is None:
                _save(folder, manifest)
                held = Folder(manifest, {}, manifest.run_id, 0, 0)
            _refuse_other(folder, held.manifest, manifest)
            file = AppendFile(folder / SAMPLES, held.intact_bytes)
        except BaseException:
            os.close(lock)
            raise
    return RunWriter(folder, held, manifest, file, lock, set_aside)


class RunWriter:
    """The single writer of one run.

    `samples` are those on disk, by doc_id, read when asked for. `recovered` says what was dropped from
    a file that a crash had torn, `set_aside` where `restart` put the former records; else None.
    """

    def __init__(
        self,
        folder: Path,
        held: Folder[Entry],
        wanted: Manifest,
        file: AppendFile,
        lock: int,
        set_aside: Path | None,
    ) -> None:
        self.folder = folder
        self.manifest = held.manifest
        self.samples = Recorded(file, held.lines, held.manifest.run_id)
        self.set_aside = set_aside
        self.recovered: str | None = None
        if held.torn_bytes:
            self.recovered = (
                f"{file.path}: dropped a torn last line ({held.torn_bytes} bytes) that an interrupted write had left; "
                f"the {len(held.lines)} samples before it are kept"
            )
        self._wanted = wanted
        self._file = file
        self._seal, self._end = held.seal, held.intact_bytes
        self._lock: int | None = lock
        self._begun: list[int] = []  # indices of this writer's segments: its samples carry these and no others

    @property
    def done(self) -> set[str]:
        """The doc_ids that need not be decoded again; the set itself, which grows, and is not to be changed."""
        return self.samples.done

    def start_segment(
        self,
        session: str,
        warmup: Warmup,
        alone: Alone | None = None,
        *,
        pid: int | None = None,
        hostname: str | None = None,
    ) -> int:
        """Note that a process goes on with the run; returns the index its samples must carry.

        It is this process on this machine, unless `pid` and `hostname` say which. Segments may
        be under way side by side.
        """
        index = len(self.manifest.segments)
        segment = Segment(
            index=index,
            session=session,
            pid=os.getpid() if pid is None else pid,
            hostname=socket.gethostname() if hostname is None else hostname,
            started=utc_now(),
            warmup=warmup,
            alone=alone,
        )
        wanted = self._wanted
        notes = [*self.manifest.notes, *wanted.notes]
        if changed := _differences(self.manifest, wanted):
            notes.append(f"continued in another environment than it began in: {', '.join(changed)}")
        self._update(
            status="running",
            error=None,
            finished=None,
            totals=None,
            command=wanted.command,
            notes=list(dict.fromkeys(notes)),
            segments=[*self.manifest.segments, segment],
        )
        self._begun.append(index)
        return index

    def append(self, samples: Sequence[Sample]) -> None:
        """Record samples: on return they are on the disk; after an error none of them is."""
        new: dict[str, Entry] = {}
        at, seal, lines = self._end, self._seal, []
        for sample in samples:
            place = f"{self._file.path}, new sample '{sample.doc_id}'"
            if sample.segment not in self._begun:
                expected = f"one of {self._begun}, which this writer has started"
                raise RecordError(f"{place}: field 'segment': got {sample.segment}, expected {expected}")
            refuse_second(new.pop(sample.doc_id, None) or self.samples.entries.get(sample.doc_id), sample.doc_id, place)
            line, seal = seal_sample(sample, seal)
            new[sample.doc_id] = entry_of(parse_sample(line, place), at, len(line))
            lines.append(line)
            at += len(line)
        with reported("write samples", self._file.path, _KEPT):
            self._file.append(b"".join(lines))
        self.samples.add(new)
        self._seal, self._end = seal, at

    def note_foreign(self, programs: Sequence[str], segment: int | None = None) -> None:
        """Add programs of others, seen on the device, to a segment (None: the last one started)."""
        old = self._own(segment)
        seen = list(dict.fromkeys([*old.foreign, *programs]))
        if seen != old.foreign:
            self._update(segments=self._with(replace(old, foreign=seen)))

    def note_error(self, segment: int, text: str) -> None:
        """Say what went wrong in a segment, which may go on: no row that it is part of is VALID."""
        failed = _failed(self._own(segment), text)
        if failed != self.manifest.segments[segment]:
            self._update(segments=self._with(failed))

    def finish(self, status: Ending, error: str | None = None, segment: int | None = None) -> None:
        """Say how the run ended, and what ended a segment (None: the last one started, if any).

        Totals are stored with "finished" only.
        """
        sums = totals(self.samples.entries.values()) if status == "finished" else None
        segments = self.manifest.segments
        if error is not None and (self._begun or segment is not None):
            segments = self._with(_failed(self._own(segment), error))
        self._update(status=status, error=error, finished=utc_now(), totals=sums, segments=segments)

    def close(self) -> None:
        """Give up the lock. A run that was not finished stays "running", and can be continued."""
        self._file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own(self, segment: int | None) -> Segment:
        """A segment of this writer; None is the last one."""
        if segment not in self._begun and (segment is not None or not self._begun):
            raise ValueError(f"segment: got {segment}, expected one of {self._begun}, which this writer has started")
        return self.manifest.segments[self._begun[-1] if segment is None else segment]

    def _with(self, changed: Segment) -> list[Segment]:
        return [changed if segment.index == changed.index else segment for segment in self.manifest.segments]

    def _update(self, **changes: Any) -> None:
        # The latest command says how many samples are wanted; never fewer than there are.
        planned = max(self._wanted.planned, len(self.samples))
        manifest = replace(self.manifest, planned=planned, **changes)
        with reported("write", self.folder / MANIFEST, _KEPT):
            _save(self.folder, manifest)
        self.manifest = manifest


def write_run(root: Path, manifest: Manifest, samples: Sequence[Sample]) -> Path:
    """Write a whole run at once, where there is none; returns its folder. A crash leaves nothing of it."""
    folder = run_folder(root, manifest)
    if folder.exists():
        raise RecordError(f"{folder}: is there already; remove it, or record elsewhere with --output")
    with reported("write there", folder, _ELSEWHERE):
        partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        make_folder(partial)
        try:
            replace_file(partial / SAMPLES, b"".join(_sealed(samples, manifest.run_id)))
            _save(partial, manifest)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    return folder


def _aside(folder: Path) -> Path:
    """A name that is free, also if the clock stands still or was set back."""
    at = datetime.now(UTC)
    while (place := folder.with_name(f"{folder.name}.old-{at:%Y%m%dT%H%M%S%f}Z")).exists():
        at += timedelta(microseconds=1)
    return place


def _failed(segment: Segment, text: str) -> Segment:
    """The segment with one more thing that went wrong, behind what is known."""
    if segment.error is None:
        return replace(segment, error=text)
    is_known = f"\n{text}\n" in f"\n{segment.error}\n"
    return segment if is_known else replace(segment, error=f"{segment.error}\n{text}")


def _sealed(samples: Sequence[Sample], seal: str) -> Iterator[bytes]:
    for sample in samples:
        line, seal = seal_sample(sample, seal)
        yield line


def _save(folder: Path, manifest: Manifest) -> None:
    data = encode(seal_manifest(manifest), indent=1)
    parse_manifest(data, f"{folder / MANIFEST}, to be written")
    replace_file(folder / MANIFEST, data)


def _differences(stored: Manifest, wanted: Manifest) -> list[str]:
    """What of the machine and the software is not as it was when the run began."""
    old = {**stored.environment, "git commit": stored.git.commit}
    new = {**wanted.environment, "git commit": wanted.git.commit}
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _refuse_other(folder: Path, stored: Manifest, wanted: Manifest) -> None:
    """The folder's name leaves much out; its run_id does not."""
    if stored.run_id == wanted.run_id:
        return
    pairs = {
        "strategy": (stored.strategy.spec, wanted.strategy.spec),
        "strategy code": (stored.strategy.code_hash[:12], wanted.strategy.code_hash[:12]),
        "protocol": (stored.protocol_hash[:12], wanted.protocol_hash[:12]),
        "run_id": (stored.run_id, wanted.run_id),
    }
    what, (old, new) = next((name, pair) for name, pair in pairs.items() if pair[0] != pair[1])
    raise RecordError(
        f"{folder}: {what} has changed since this run began: got {new}, expected {old}; "
        "begin anew with --restart (the old records are renamed aside), or record elsewhere with --output"
    )
