"""Hashes: what identifies a setting and a run, and seals by which a change made after writing is noticed.

Every line of `samples.jsonl` ends with a hash of its text and of the seal before it, so a
line that is edited, dropped, added or moved breaks the chain; `run.json` holds a hash of
itself. A seal is no signature: who wants to forge a record can seal it, too. It keeps
honest people from quoting a number that somebody has touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from l2pd_bench.errors import RecordError
from l2pd_bench.record_json import encode
from l2pd_bench.schema import Manifest, Sample
from l2pd_bench.specs import Scalar

_KEY = b', "seal": "'
_LENGTH = 16  # hex digits
EDITED = "it was changed after it was written, so none of it is trusted; restore it, or begin anew with --restart"
SEAL_END = _LENGTH + len('"}\n')  # the bytes of a line from its seal on
_BODY = -len(_KEY) - SEAL_END  # where what is sealed ends


def hash_of(protocol: Mapping[str, Scalar]) -> str:
    """SHA-256 (hex) of the settings, sorted by name."""
    return hashlib.sha256(json.dumps(dict(protocol), sort_keys=True).encode()).hexdigest()


def run_id(protocol_hash: str, spec: str, code_hash: str) -> str:
    """What identifies a run: setting, strategy, and the strategy's code."""
    return hashlib.sha256(json.dumps([protocol_hash, spec, code_hash]).encode()).hexdigest()[:16]


def seal_sample(sample: Sample, before: str) -> tuple[bytes, str]:
    """A sample's line and its seal; `before` is the seal of the line above, the run's id for the first."""
    body = encode(sample).rpartition(_KEY)[0]
    seal = _digest(before.encode() + body)
    return body + _KEY + seal.encode() + b'"}\n', seal


def seal_of(line: bytes, before: str) -> str | None:
    """The seal of a line (with its end), if the line is as it was written behind the seal `before`; else None."""
    return seal_in(line) if are_sealed([line], before) else None


def are_sealed(lines: Sequence[bytes], before: str) -> bool:
    """Whether each line is as it was written behind the one above it, the first behind the seal `before`."""
    above = [before.encode(), *(line[-SEAL_END:][:_LENGTH] for line in lines)]
    return all(
        line.endswith(_KEY + _digest(seal + line[:_BODY]).encode() + b'"}\n')
        for seal, line in zip(above, lines, strict=False)  # the last seal has no line behind it
    )


def seal_in(line: bytes) -> str:
    """The seal that a line (with its end) says it has."""
    return line[-SEAL_END:][:_LENGTH].decode(errors="replace")


def seal_manifest(manifest: Manifest) -> Manifest:
    """The manifest with its seal."""
    return replace(manifest, seal=_of_manifest(manifest))


def check_manifest(manifest: Manifest, place: str) -> None:
    """Raise RecordError unless the manifest is as it was written."""
    if manifest.seal != _of_manifest(manifest):
        raise RecordError(f"{place}: its seal does not fit: {EDITED}")


def _of_manifest(manifest: Manifest) -> str:
    return _digest(json.dumps({**asdict(manifest), "seal": None}, sort_keys=True).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_LENGTH]
