"""What a record is: the fields of `run.json` and of one line of `samples.jsonl`.

A field that is added, dropped or changes its meaning takes a new `SCHEMA_VERSION`. Knows
nothing of their text (`record_json.py`), of files, folders and locks (`records.py`), of what
seals a record (`seal.py`), nor of how a number was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, PlainValidator
from pydantic_core import PydanticCustomError

from l2pd_bench.specs import Scalar

SCHEMA_VERSION = 4  # 3 had no seals, and did not tell what a row's validity needs; 2 had no grading; 1 no schedule
KNOWN_VERSIONS = (4,)
PROTOCOL: dict[str, type] = {  # the settings that every record must tell; others may stand beside them
    **dict.fromkeys(("model", "revision", "weights_hash", "dtype", "attention", "device"), str),
    **{"task": str, "data_hash": str, "few_shot": int, "prompt_format": str, "grading": str},
    **{"gen_length": int, "block_length": int, "schedule": str, "cache": str, "eot": str},
    **{"temperature": float, "seed": int, "batch_size": int},
}
UNGRADED = "none"  # the protocol's grading where nobody graded, as the answers of random weights

Ending = Literal["finished", "interrupted", "failed"]

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # holds for the classes inside, too


def _scalar(value: object) -> object:
    if isinstance(value, Scalar) and value not in (math.inf, -math.inf):
        return value
    raise PydanticCustomError("scalar", "Input should be a string, a finite number, true, false or null")


Setting = Annotated[Scalar, PlainValidator(_scalar)]  # one error, where a union would give one for each of its types


def turn_of(batch_size: int) -> int:
    """How many samples are decoded in one turn, and then recorded together: one, or two batches.

    Two, so that whoever ends first makes room for another.
    """
    return batch_size if batch_size == 1 else 2 * batch_size


def utc_now() -> str:
    """The time as records store it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Generated tokens: before the first EoT; of those, before a stop string; all."""

    net: int
    answer: int
    gross: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Nfe:
    """Forwards a sample was active in: over the whole canvas, over a cached window, of the strategy's own models."""

    full: int
    window: int
    auxiliary: int

    @property
    def total(self) -> int:
        """Those of the host: a strategy's own model may be of any size, so its forwards are told apart."""
        return self.full + self.window


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """A sample's share of its batch's seconds; `model` and `select` lie inside `decode`.

    `latency` is no share: all samples of a batch waited for the decode seconds of the whole batch.
    """

    decode: float
    model: float
    select: float
    latency: float


Counts = tuple[bool, int, int, float]  # what of a sample goes into totals: correct, net tokens, NFE, decode seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One line of `samples.jsonl`: one item, decoded and graded."""

    __pydantic_config__ = _STRICT

    doc_id: str
    status: Literal["ok", "oom", "error"]
    error: str | None
    prompt_tokens: int
    output_ids: list[int]
    full_text: str  # of the net tokens
    text: str  # of it, what stands before the first stop string
    answer: str
    correct: bool
    score: float
    tokens: Tokens
    nfe: Nfe
    positions: int
    flops: int
    forced_commits: int  # steps in which the strategy chose nothing
    overrides: int  # steps in which it filled in other tokens than the model's picks
    cut_tokens: int  # masks that EoT prediction cut off
    seconds: Seconds
    segment: int  # index into the manifest's segments
    elapsed_s: float  # from the start of the session until it was done, by a clock that never goes back
    timed: bool
    schema_version: int = SCHEMA_VERSION
    seal: str = ""  # see `seal.py`; given by the writer

    @property
    def counts(self) -> Counts:
        """What it adds to the totals."""
        return self.correct, self.tokens.net, self.nfe.total, self.seconds.decode


class Entry(NamedTuple):
    """A line of `samples.jsonl` as its writer knows it: what it is of, what it counts for, and where it stands."""

    doc_id: str
    status: str
    segment: int
    correct: bool
    net_tokens: int
    nfe: int
    decode_s: float
    begin: int
    end: int

    @property
    def counts(self) -> Counts:
        """What it adds to the totals."""
        return self[3:7]


@dataclass(frozen=True, kw_only=True)
class StrategyRecord:
    """Which strategy ran: enough to build it again, and to notice that its code has changed."""

    name: str
    params: dict[str, Setting]
    spec: str
    slug: str
    distribution: str | None
    version: str | None
    code_hash: str
    deployable: bool  # whether it decodes from what is known when decoding: an oracle does not

    @property
    def is_baseline(self) -> bool:
        """Whether it is fixed-step with one token per step, most confident first."""
        one_by_one = self.params.get("k") == 1 and self.params.get("order", "confidence") == "confidence"
        return self.name == "fixed-step" and one_by_one

    @property
    def is_oracle(self) -> bool:
        """Whether it is the bound that others are measured against."""
        return self.name == "oracle" and not self.deployable


@dataclass(frozen=True, kw_only=True)
class Git:
    """The state of the checkout the program ran from, where there was one."""

    commit: str | None
    dirty: bool | None


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """What was decoded, unrecorded, before a segment's first sample: its first batch, until the times repeat."""

    samples: int
    rounds: int
    seconds: float  # of the last round
    is_stable: bool  # whether the last two rounds took equally long, see `warmup.py`


@dataclass(frozen=True, kw_only=True)
class Alone:
    """Samples of the first batch that were decoded alone as well, and how many came out otherwise."""

    samples: int
    differing: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One stretch of a run in one process; several may be under way at once."""

    index: int
    session: str  # one per process, shared by all the runs it interleaves; speed is compared only within one
    pid: int
    hostname: str
    started: str
    warmup: Warmup
    alone: Alone | None  # where a batch has more than one sample
    foreign: list[str] = field(default_factory=list)  # other programs seen on the device, as "name (pid)"
    error: str | None = None  # what went wrong in it, if a decode failed, whether that ended it or not


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the samples of a finished run."""

    samples: int
    correct: int
    net_tokens: int
    nfe: int
    decode_seconds: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`run.json`. The fields with a default are filled by the writer; the others say what to run."""

    __pydantic_config__ = _STRICT

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["running", "finished", "interrupted", "failed"] = "running"
    error: str | None = None
    command: str
    protocol: dict[str, Setting]
    protocol_hash: str
    task_spec: str  # enough to make the task again, but for where its data is
    model_spec: str  # what --model was given
    strategy: StrategyRecord
    environment: dict[str, object]
    git: Git
    started: str = field(default_factory=utc_now)
    finished: str | None = None
    planned: int
    notes: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    totals: Totals | None = None
    seal: str = ""

    @property
    def graded(self) -> bool:
        """Whether the scores of the samples say anything."""
        return self.protocol["grading"] != UNGRADED
