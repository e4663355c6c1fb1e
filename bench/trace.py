"""What a decode looked like, step by step: one line of `trace.jsonl` for each sample.

A trace is made by decoding a sample once more, outside of what is timed, so it costs a
row's seconds nothing. It holds its tokens' texts, so it can be shown without the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from l2pd_bench.durable import AppendFile, reported
from l2pd_bench.errors import RecordError

TRACES = "trace.jsonl"
TRACE_VERSION = 1

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceStep:
    """One forward. Columns are counted from the first mask of the generation region."""

    block: tuple[int, int]  # the active block, [start, stop)
    columns: list[int]  # those committed in this step
    tokens: list[int]  # what they were filled with
    confidences: list[float]  # how sure the model was of its picks there
    remasked: list[int]  # those emptied again
    end: int  # length of the generation region after this step: an EoT may have cut it (predict), or ended it (stop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One sample's decode."""

    __pydantic_config__ = _STRICT

    trace_version: int = TRACE_VERSION
    doc_id: str
    prompt: str
    gen_length: int
    vocabulary: dict[int, str]  # texts of the tokens that occur in it
    steps: list[TraceStep]


_TRACE = TypeAdapter(Trace)


def encode_trace(trace: Trace) -> bytes:
    """One line of JSON."""
    return json.dumps(asdict(trace), allow_nan=False).encode() + b"\n"


def read_traces(folder: Path) -> dict[str, Trace]:
    """The traces of the run in `folder` by doc_id, empty if there are none; the last of a doc_id counts.

    A torn last line is left out. Raises RecordError for a line that is no trace.
    """
    return {trace.doc_id: trace for trace in _lines(folder / TRACES)}


class TraceFile:
    """Appends traces to those of the run in `folder`, which must be locked; `done` are the doc_ids of all of them.

    The file is made with the first trace; a torn last line is cut off then. Raises
    RecordError for a line that is no trace.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TRACES
        self._file: AppendFile | None = None
        self.done = {trace.doc_id for trace in _lines(self._path)}

    def append(self, traces: Sequence[Trace]) -> None:
        """Record traces: on return they are on the disk; after an error none of them is."""
        with reported("write traces", self._path, "free space or mend the disk, and repeat the command"):
            if self._file is None:
                self._file = AppendFile(self._path, len(_intact(self._path)))
            self._file.append(b"".join(map(encode_trace, traces)))
        self.done |= {trace.doc_id for trace in traces}

    def close(self) -> None:
        """Close the file; a later append fails."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _intact(path: Path) -> bytes:
    """What is in the file, without a torn last line."""
    with reported("read", path, "check its permissions"):
        data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def _lines(path: Path) -> Iterator[Trace]:
    for number, line in enumerate(_intact(path).split(b"\n")[:-1], start=1):
        try:
            trace = _TRACE.validate_json(line)
        except ValidationError as failure:
            error = failure.errors(include_url=False)[0]
            place = ".".join(map(str, error["loc"]))
            raise RecordError(f"{path}, line {number}: got no trace ({place}: {error['msg']}); delete it") from failure
        if trace.trace_version != TRACE_VERSION:
            raise RecordError(
                f"{path}, line {number}: got trace_version {trace.trace_version}, expected {TRACE_VERSION}"
            )
        yield trace
