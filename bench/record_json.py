"""Records as JSON text, and back: strictly, every field present, of its type, and no other.

Which fields there are is `schema.py`'s affair. Knows nothing of files and folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from l2pd_bench.errors import RecordError
from l2pd_bench.schema import KNOWN_VERSIONS, PROTOCOL, Manifest, Sample

Record = TypeVar("Record", Sample, Manifest)
_SAMPLE, _MANIFEST = (TypeAdapter(kind).validator.validate_json for kind in (Sample, Manifest))


class BrokenJson(RecordError):
    """A text that is no JSON: damaged, or cut short by a crash."""


def encode(record: Sample | Manifest, indent: int | None = None) -> bytes:
    """A record as JSON text, with a newline at the end and no other unless `indent` asks for them."""
    return json.dumps(record, default=_plain, indent=indent, allow_nan=False).encode() + b"\n"


def _plain(record: Any) -> dict[str, object]:
    """The fields of a dataclass; `asdict` copies what is in them, which takes longer than all the rest of writing."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def parse_sample(text: bytes, place: str) -> Sample:
    """A line of `samples.jsonl`, checked; `place` names file and line in errors."""
    return _parse(Sample, _SAMPLE, text, place)


def parse_manifest(text: bytes, place: str) -> Manifest:
    """The content of `run.json`, checked."""
    manifest = _parse(Manifest, _MANIFEST, text, place)
    for key, kind in PROTOCOL.items():
        if key not in manifest.protocol:
            raise RecordError(f"{place}: field 'protocol.{key}' is missing")
        value = manifest.protocol[key]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise RecordError(f"{place}: field 'protocol.{key}': got {value!r:.40}, expected a valid {kind.__name__}")
    return manifest


def _parse(kind: type[Record], validated: Callable[[bytes], Record], text: bytes, place: str) -> Record:
    try:
        record = validated(text)
    except ValidationError as failure:
        raise _fault(kind, text, place) or RecordError(f"{place}: {_explain(failure)}") from failure
    is_whole = kind is Sample and record.seal and record.schema_version in KNOWN_VERSIONS  # its seal is of its text
    if not is_whole and (fault := _fault(kind, text, place)):
        raise fault  # a default serves the writer only
    return record


def _fault(kind: type[Record], text: bytes, place: str) -> RecordError | None:
    """What is wrong with a record as a whole: its text, its version, a field that is missing."""
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as failure:
        return BrokenJson(
            f"{place}: got broken JSON ({failure}), expected one object; restore the file, or begin anew with --restart"
        )
    if not isinstance(value, dict):
        return RecordError(f"{place}: got {value!r:.40}, expected an object")
    version = value.get("schema_version")
    if "schema_version" in value and (type(version) is not int or version not in KNOWN_VERSIONS):
        return RecordError(
            f"{place}: field 'schema_version': got {version!r:.40}, expected {', '.join(map(str, KNOWN_VERSIONS))} "
            "(all this program knows); use the version of l2pd-bench that wrote it, or another folder"
        )
    missing = (name for name in ("schema_version", *(f.name for f in fields(kind))) if name not in value)
    name = next(missing, None)
    return RecordError(f"{place}: field '{name}' is missing") if name else None


def _explain(failure: ValidationError) -> str:
    """The first thing wrong, in one line."""
    error = failure.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])[1:]
    if error["type"] == "missing":
        return f"field '{path}' is missing"
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown field '{path}'"
    return f"field '{path}': got {error['input']!r:.40}, {error['msg'].replace('Input should be', 'expected')}"
