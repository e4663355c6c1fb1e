"""Reads `name:key=value,key=value` and turns the values into what the parameters want.

Text to values and back, nothing else: it does not know which names exist, nor what a
strategy, task or host is.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from l2pd_bench.errors import UsageError, unknown

Scalar = str | int | float | bool | None  # what JSON can store and a command line can write

EXPECTED = {"bool": "true or false", "int": "a whole number", "float": "a finite number", "str": "text"}
SLUG_LENGTH = 80


class Parsed(NamedTuple):
    """A spec as written: the name, and the parameters still as text."""

    name: str
    params: dict[str, str]


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter. `kind` is bool, int, float or str; `optional` ones may also be none."""

    name: str
    kind: str
    optional: bool = False
    required: bool = False
    default: Scalar = None

    @property
    def expected(self) -> str:
        """What a user may write for it."""
        return EXPECTED[self.kind] + (" or none" if self.optional else "")


def parse(text: str, what: str) -> Parsed:
    """Split a spec; the name itself may hold colons (`./file.py:Class`). `what` is the thing named, for errors."""
    # The parameters begin at the first colon that a `key=` follows.
    name, *rest = re.split(r":(?=[^:,=/\\]+=)", text, maxsplit=1)
    params: dict[str, str] = {}
    for pair in rest[0].split(",") if rest else []:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise UsageError(f"{what}: got '{pair}' in '{text}', expected key=value pairs with commas between them")
        if key in params:
            raise UsageError(f"{what}: got '{key}' twice in '{text}', expected each parameter once")
        params[key] = value
    return Parsed(name.strip(), params)


def convert(given: Mapping[str, str], parameters: Sequence[Parameter], what: str) -> dict[str, Scalar]:
    """The values the given texts stand for; `what` names the owner of the parameters in errors."""
    known = {parameter.name: parameter for parameter in parameters}
    for key in given:
        if key not in known:
            raise unknown(f"{what}: parameter", key, known)
    for parameter in parameters:
        if parameter.required and parameter.name not in given:
            raise UsageError(f"{what}: got no '{parameter.name}', expected {parameter.name}={parameter.expected}")
    return {key: _value(text, known[key], what) for key, text in given.items()}


def _value(text: str, parameter: Parameter, what: str) -> Scalar:
    if parameter.optional and text == "none":
        return None
    try:
        match parameter.kind:
            case "bool":
                return {"true": True, "false": False}[text]
            case "int":
                return int(text)
            case "float" if math.isfinite(value := float(text)):
                return value + 0.0  # -0.0 becomes 0.0: one value, one spec
            case "str":
                return text
    except (KeyError, ValueError):
        pass  # the message below says it for every kind
    raise UsageError(f"{what}: {parameter.name}: got '{text}', expected {parameter.expected}")


def show(value: Scalar) -> str:
    """A value as a spec writes it."""
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def canonical(name: str, values: Mapping[str, Scalar], parameters: Sequence[Parameter]) -> str:
    """The one way to write a spec: defaults left out, keys sorted."""
    defaults = {p.name: p.default for p in parameters if not p.required}
    pairs = [f"{k}={show(v)}" for k, v in sorted(values.items()) if k not in defaults or v != defaults[k]]
    return f"{name}:{','.join(pairs)}" if pairs else name


def slug(spec: str) -> str:
    """A file name for a canonical spec: `threshold:tau=0.8` -> `threshold-tau0.8`.

    A spec with anything that is not safe in a file name gets a hash of itself at the end,
    so that two specs never share a name only because of what was replaced.
    """
    name, params = parse(spec, "spec")
    plain = "-".join([name, *(key + value for key, value in params.items())])
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-")[:SLUG_LENGTH]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(spec.encode()).hexdigest()[:8]}"
