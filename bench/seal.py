"""Hashes: what identifies a setting and a run, and seals by which a change made after writing is noticed.

Every line of `samples.jsonl` ends with a hash of its text and of the seal before it, so a
line that is edited, dropped, added or moved breaks the chain; `run.json` holds a hash of
itself. A seal is no signature: who wants to forge a record can seal it, too. It keeps
honest people from quoting a number that somebody has touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from l2pd_bench.errors import RecordError
from l2pd_bench.schema import Manifest, Sample, encode
from l2pd_bench.specs import Scalar

_KEY = b', "seal": "'
_LENGTH = 16  # hex digits
_EDITED = "it was changed after it was written, so none of it is trusted; restore it, or begin anew with --restart"


def hash_of(protocol: Mapping[str, Scalar]) -> str:
    """SHA-256 (hex) of the settings, sorted by name."""
    return hashlib.sha256(json.dumps(dict(protocol), sort_keys=True).encode()).hexdigest()


def run_id(protocol_hash: str, spec: str, code_hash: str) -> str:
    """What identifies a run: setting, strategy, and the strategy's code."""
    return hashlib.sha256(json.dumps([protocol_hash, spec, code_hash]).encode()).hexdigest()[:16]


def seal_sample(sample: Sample, before: str) -> tuple[Sample, bytes]:
    """The sample with its seal, and its line; `before` is the seal of the line above, the run's id for the first."""
    body = encode(replace(sample, seal="")).rpartition(_KEY)[0]
    seal = _digest(before.encode() + body)
    return replace(sample, seal=seal), body + _KEY + seal.encode() + b'"}\n'


def check_line(line: bytes, sample: Sample, before: str, place: str) -> None:
    """Raise RecordError unless a line (without its end) is as it was written behind the seal `before`."""
    body = line[: -len(_KEY) - _LENGTH - 2]
    if _digest(before.encode() + body) != sample.seal or not line.startswith(_KEY, len(body)):
        raise RecordError(f"{place}: its seal does not fit, or a line before it was added, dropped or moved: {_EDITED}")


def seal_manifest(manifest: Manifest) -> Manifest:
    """The manifest with its seal."""
    return replace(manifest, seal=_of_manifest(manifest))


def check_manifest(manifest: Manifest, place: str) -> None:
    """Raise RecordError unless the manifest is as it was written."""
    if manifest.seal != _of_manifest(manifest):
        raise RecordError(f"{place}: its seal does not fit: {_EDITED}")


def _of_manifest(manifest: Manifest) -> str:
    return _digest(json.dumps({**asdict(manifest), "seal": None}, sort_keys=True).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_LENGTH]
