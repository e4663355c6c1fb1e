"""The numbers that papers published (`claims.yaml`), and which of them a run may stand beside.

A claim and a run belong together if they have the same task and the same strategy: its
name, and every parameter that the source tells. Nothing is guessed; whatever else differs
is told. Knows nothing of boards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from l2pd_bench.errors import BenchError
from l2pd_bench.records import Run
from l2pd_bench.specs import Scalar, parse, show

FILE = "claims.yaml"
PROTOCOL_KEYS = {  # the settings of a claim, as a record names them
    "model": "model",
    "hardware": "device",
    "cache": "cache",
    "eot": "eot",
    "gen_length": "gen_length",
    "block_length": "block_length",
    "shots": "few_shot",
    "temperature": "temperature",
    "batch_size": "batch_size",
}

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published row; what its source does not tell is None."""

    __pydantic_config__ = _STRICT

    source: str
    arxiv: str
    table: str
    method: str  # in the source's words
    task: str
    strategy: str | None  # in ours, with every parameter that is told; None: none of ours
    tps: float
    accuracy: float  # percent
    speedup: float | None = None
    tokens: Literal["answer", "net"]  # which of our counters is nearest to theirs
    model: str | None = None
    hardware: str | None = None
    cache: str | None = None
    eot: str | None = None
    gen_length: int | None = None
    block_length: int | None = None
    shots: int | None = None
    temperature: float | None = None
    batch_size: int | None = None
    items: int | None = None
    remark: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.source} (arXiv {self.arxiv}), {self.table}, {self.method}"


class Difference(NamedTuple):
    """A setting that is not the same here and there; None there: the source does not tell."""

    name: str
    here: Scalar
    there: Scalar


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One table of the file: the rows, and what they have in common."""

    __pydantic_config__ = _STRICT

    source: str
    arxiv: str
    table: str
    setting: dict[str, Any]
    remark: str
    methods: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    remarks: dict[str, str]
    rows: list[dict[str, Any]]


Told = TypeVar("Told", Claim, _Table)
_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Claim, _Table)}


@cache
def load_claims() -> tuple[Claim, ...]:
    """All claims of the package, in the order of the file."""
    return parse_claims(files("l2pd_bench").joinpath(FILE).read_text("utf-8"))


def parse_claims(text: str) -> tuple[Claim, ...]:
    """The claims in a text such as `claims.yaml`; a BenchError that names the entry for anything else in it."""
    import yaml

    tables = yaml.safe_load(text)
    if not isinstance(tables, list):
        raise BenchError(f"{FILE}: got {type(tables).__name__}, expected a list of tables")
    claims = []
    for number, told in enumerate(tables, start=1):
        table = _checked(_Table, told, f"table {number}")
        name = f"'{table.source}, {table.table}'"
        claims += [_claim(table, row, f"{name}, row {i}") for i, row in enumerate(table.rows, start=1)]
    return tuple(claims)


def comparable(claim: Claim, run: Run) -> bool:
    """Whether both are of one task and of one strategy, as far as the source tells it."""
    strategy = run.manifest.strategy
    if claim.strategy is None or claim.task != run.manifest.protocol["task"]:
        return False
    name, params = parse(claim.strategy, "claim")
    known = {key: show(value) for key, value in strategy.params.items()}
    return name == strategy.name and params.items() <= known.items()


def differences(claim: Claim, run: Run) -> Sequence[Difference]:
    """The settings that differ, or that the source does not tell."""
    strategy = run.manifest.strategy
    told = parse(claim.strategy or "", "claim").params
    here: dict[str, Scalar] = {name: run.manifest.protocol[key] for name, key in PROTOCOL_KEYS.items()}
    found = [Difference(name, value, getattr(claim, name)) for name, value in here.items()]
    found.append(Difference("items", len(run.samples), claim.items))
    found += [Difference(f"{strategy.name}'s {key}", v, None) for key, v in strategy.params.items() if key not in told]
    return [each for each in found if each.here != each.there]


def _claim(table: _Table, row: dict[str, Any], place: str) -> Claim:
    own = dict(row)
    keys = own.pop("remarks", [])
    named: list[tuple[str, Any, Iterable[str]]] = [("remark", key, table.remarks) for key in keys]
    named += [("method", own.get("method"), table.methods), ("task", own.get("task"), table.tasks)]
    for word, key, known in named:
        if key not in known:
            raise BenchError(f"{FILE}: {place}: {word}: got {key!r}, expected one of {', '.join(known)}")
    common = {"source": table.source, "arxiv": table.arxiv, "table": table.table}
    remark = "; ".join([table.remark, *(table.remarks[key] for key in keys)])
    settings = {**table.setting, **table.methods[own["method"]], **table.tasks[own["task"]]}
    return _checked(Claim, {**common, **settings, **own, "remark": remark}, place)


def _checked(kind: type[Told], value: object, place: str) -> Told:
    try:
        told: Told = _ADAPTERS[kind].validate_json(json.dumps(value, default=str))  # from JSON strict takes a dict
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        path = ".".join(map(str, error["loc"])) or "the entry"
        raise BenchError(f"{FILE}: {place}: {path}: got {error['input']!r:.60}, {error['msg']}") from failure
    return told
