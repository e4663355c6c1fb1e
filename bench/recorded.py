"""What the writer of a run holds: of every line where it stands and what it counts for, not the line itself.

A run of any size is continued within seconds and in little memory: that a line is as it was
written, its seal tells, so it need not be taken apart. The whole of a sample is read and
checked when somebody asks for it. It does not know how lines come about (`writer.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from operator import add

from l2pd_bench.durable import AppendFile, reported
from l2pd_bench.errors import RecordError
from l2pd_bench.record_json import parse_sample
from l2pd_bench.schema import SCHEMA_VERSION, Entry, Sample
from l2pd_bench.seal import EDITED, SEAL_END, are_sealed, seal_in, seal_of

# A line as `encode` writes it: in ASCII, and quotes inside of a text are escaped, so no text looks like a name.
_PLAIN, _ESCAPED = rb"[ !#-\[\]-~]*", rb'\\(?:["\\/bfnrt]|u[\da-f]{4})'
_HEAD = re.compile(rb'\{"doc_id": "(%b(?:%b%b)*)", "status": "(ok|oom|error)", ' % (_PLAIN, _ESCAPED, _PLAIN))
_STATUSES = {b"ok": "ok", b"oom": "oom", b"error": "error"}
_MIDDLE = b', "correct": '
_COUNTED = (
    *(rb', "correct": (true|false), "score": N', rb', "tokens": \{"net": (I), "answer": I, "gross": I\}'),
    *(rb', "nfe": \{"full": (I), "window": (I), "auxiliary": I\}', rb', "positions": I, "flops": I'),
    rb', "forced_commits": I, "overrides": I, "cut_tokens": I',
    rb', "seconds": \{"decode": (N), "model": N, "select": N, "latency": N\}',
    *(rb', "segment": (I), "elapsed_s": N, "timed": (?:true|false)', rb', "schema_version": %d, ' % SCHEMA_VERSION),
)
_TAIL = re.compile(b"".join(_COUNTED).replace(b"I", b"-?[0-9]+").replace(b"N", b"-?[0-9][-+.0-9e]*"))


def read_entry(line: bytes, place: str, begin: int) -> Entry:
    """The entry of a line whose seal fits; one that is not written as this program writes it is taken apart."""
    found = _entries([line], begin)
    return entry_of(parse_sample(line, place), begin, len(line)) if found is None else found[0]


def read_entries(lines: Sequence[bytes], before: str, begin: int) -> list[Entry] | None:
    """What `read_entry` makes of each, the first of which begins there behind the seal `before`.

    None where a seal does not fit, or a line is to be taken apart. Many at once are
    faster, as most of the time goes into calls.
    """
    return _entries(lines, begin) if are_sealed(lines, before) else None


def _entries(lines: Sequence[bytes], begin: int) -> list[Entry] | None:
    """The entries of lines as this program writes them; None if one is not."""
    heads = [_HEAD.match(line) for line in lines]
    tails = [_TAIL.match(line, line.rfind(_MIDDLE)) for line in lines]
    told = [(*head.groups(), *tail.groups()) for head, tail in zip(heads, tails, strict=True) if head and tail]
    if len(told) < len(lines):
        return None
    doc_ids, statuses, correct, net, full, window, decode_s, segments = zip(*told, strict=True)
    at = list(accumulate(map(len, lines), initial=begin))
    columns = (
        (json.loads(b'"%b"' % doc_id) if b"\\" in doc_id else doc_id.decode() for doc_id in doc_ids),
        map(_STATUSES.__getitem__, statuses),
        map(int, segments),
        map(b"true".__eq__, correct),
        map(int, net),
        map(add, map(int, full), map(int, window)),
        map(float, decode_s),
        at[:-1],
        at[1:],
    )
    return list(map(Entry._make, zip(*columns, strict=True)))


def entry_of(sample: Sample, begin: int, length: int) -> Entry:
    """The entry of a sample whose line is so long and begins there."""
    return Entry(sample.doc_id, sample.status, sample.segment, *sample.counts, begin, begin + length)


class Recorded(Mapping[str, Sample]):
    """A run's samples by doc_id, in the order of the file; of one tried again after an error, the last try.

    `done` are the items that did not end in an error.
    """

    def __init__(self, file: AppendFile, entries: dict[str, Entry], run_id: str) -> None:
        self.entries = entries
        self.done = {doc_id for doc_id, entry in entries.items() if entry.status == "ok"}
        self._file = file
        self._run_id = run_id

    def add(self, new: Mapping[str, Entry]) -> None:
        """Take in lines that are now in the file."""
        for doc_id, entry in new.items():
            self.entries.pop(doc_id, None)
            self.entries[doc_id] = entry
            if entry.status == "ok":
                self.done.add(doc_id)

    def __getitem__(self, doc_id: str) -> Sample:
        entry = self.entries[doc_id]
        above = max(0, entry.begin - SEAL_END)  # the end of the line above holds the seal that this one's goes on from
        with reported("read", self._file.path, "repeat the command to continue"):
            text = self._file.read(above, entry.end)
        line = text[entry.begin - above :]
        before = seal_in(text[: entry.begin - above]) if entry.begin else self._run_id
        place = f"{self._file.path}, sample '{doc_id}'"
        if seal_of(line, before) is None or (sample := parse_sample(line, place)).doc_id != doc_id:
            raise RecordError(f"{place}: it is not where it was, or its seal does not fit: {EDITED}")
        return sample

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
