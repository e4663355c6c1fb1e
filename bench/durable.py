"""Files that survive `kill -9` and a full disk: whole replacement, all-or-nothing append, one writer.

POSIX only where it locks. Knows nothing of what is in the files.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l2pd_bench.errors import RecordError

LOCK = ".lock"


@contextmanager
def reported(doing: str, path: Path, advice: str) -> Iterator[None]:
    """Turn an OSError inside into a RecordError that says what failed, where, and what to do."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        raise RecordError(f"{path}: cannot {doing} ({reason}); {advice}") from failure


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` new content such that a reader, or a crash, sees the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")  # the one writer overwrites what a crash has left here
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder (new files, renamed ones) durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """A file that grows by whole pieces: after a failed append it is as it was before."""

    def __init__(self, path: Path, length: int) -> None:
        """Open `path` (made if missing) and cut off what lies beyond `length` bytes."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.fstat(self._descriptor).st_size > length:
                self._cut(length)
            sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, data: bytes) -> None:
        """Write, flush and fsync `data`; whatever interrupts that, none of it stays in the file."""
        length = os.fstat(self._descriptor).st_size
        try:
            _write_all(self._descriptor, data)
            os.fsync(self._descriptor)
        except BaseException:  # a failing disk as well as Ctrl-C
            try:
                self._cut(length)
            except OSError:
                self.close()  # nothing may ever be written behind a torn piece: the next open cuts it off
            raise

    def read(self, begin: int, end: int) -> bytes:
        """What stands in the file from `begin` to `end`."""
        return os.pread(self._descriptor, end - begin, begin)

    def close(self) -> None:
        """Close the file; a later append or read fails."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _cut(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        os.fsync(self._descriptor)


def acquire_lock(folder: Path) -> int:
    """Make `folder` and become its only writer until the returned descriptor is closed, or this process dies."""
    import fcntl  # not on Windows, where records can still be read

    while True:
        make_folder(folder)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(descriptor, folder / LOCK):
                os.ftruncate(descriptor, 0)
                holder = {"pid": os.getpid(), "host": socket.gethostname()}
                os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
                return descriptor
        except BlockingIOError:
            holder_text = os.pread(descriptor, 1000, 0).decode(errors="replace")
            os.close(descriptor)
            raise RecordError(_refusal(folder, holder_text)) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the folder was renamed between opening and locking: lock the new one


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _is_current(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _refusal(folder: Path, holder_text: str) -> str:
    try:
        holder = json.loads(holder_text)
        who = f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"  # it has locked, and not yet written who it is
    return (
        f"{folder}: {who} is writing this run, expected to be the only writer; "
        "wait for it to end, or end it, and repeat the command (or record elsewhere with --output)"
    )


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:  # a nearly full disk takes a part and fails on the rest
        left = left[os.write(descriptor, left) :]
