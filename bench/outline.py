"""What can be said about a plugin's class or function: its summary, its parameters, its speed knob.

Two readers of the same facts. One asks the imported object. The other reads the source
text without importing it, because a strategy imports torch and a listing should not
have to wait for that; it gives up (None) where the source does not say things plainly.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from typing import Any, NamedTuple

from l2pd_bench.errors import PluginError
from l2pd_bench.specs import EXPECTED, Parameter

KINDS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


Knob = tuple[str, tuple[int | float, ...]]  # a strategy's, without its module, which imports torch


class Outline(NamedTuple):
    """First line of the docstring, the parameters that a spec may set, and which of them sets the speed."""

    summary: str
    parameters: tuple[Parameter, ...] = ()
    knob: Knob | None = None


def of_object(thing: object) -> Outline:
    """The outline of an imported class or function; a dataclass's fields are its parameters."""
    summary = _first_line(thing.__doc__)
    if not (isinstance(thing, type) and dataclasses.is_dataclass(thing)):
        return Outline(summary)
    try:
        hints = typing.get_type_hints(thing)
        parameters = tuple(_of_field(f, hints[f.name]) for f in dataclasses.fields(thing) if f.init)
        return Outline(summary, parameters, _knob(getattr(thing, "knob", None)))
    except (NameError, ValueError) as error:
        raise PluginError(f"{thing.__qualname__}: {error}") from error


def of_source(source: str, name: str) -> Outline | None:
    """The outline of the class or function `name` from its source, None if it has to be imported."""
    named = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    node = named.get(name)
    if node is None:
        return None
    summary = _first_line(ast.get_docstring(node))
    if not (isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)):
        return Outline(summary)
    inherited: tuple[Parameter, ...] = ()
    knobs: list[Knob | None] = []
    for base in map(ast.unparse, node.bases):
        if base == "Strategy":  # which has no fields
            continue
        above = of_source(source, base)
        if above is None:  # of another module: its fields are not seen here
            return None
        inherited += above.parameters
        knobs.append(above.knob)
    own = _of_dataclass(node)
    if own is None or {p.name for p in inherited} & {p.name for p in own}:
        return None
    try:
        knobs = [*_knobs_of_body(node), *knobs]
    except ValueError:  # it is computed
        return None
    return Outline(summary, (*inherited, *own), next(filter(None, knobs), None))


def _of_dataclass(node: ast.ClassDef) -> tuple[Parameter, ...] | None:
    """The fields of a class's own body."""
    found = []
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
            try:
                default = dataclasses.MISSING if field.value is None else ast.literal_eval(field.value)
                found.append(_parameter(ast.unparse(field.target), ast.unparse(field.annotation), default))
            except ValueError:  # a default that is computed, or a type that is spelled in another way
                return None
    return tuple(found)


def _knobs_of_body(node: ast.ClassDef) -> list[Knob | None]:
    """The knob of a class's own body, where it has one: `knob: ClassVar[Knob] = Knob("tau", (0.9, 0.8))`."""
    found = []
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "knob" and line.value is not None:
            if not isinstance(line.value, ast.Call) or line.value.keywords:
                raise ValueError("not written plainly")
            found.append(_knob(tuple(ast.literal_eval(part) for part in line.value.args)))
    return found


def _knob(knob: Any) -> Knob | None:
    """A knob as it was declared; ValueError if it is none."""
    if knob is None:
        return None
    match knob:
        case (str(parameter), tuple(values)) if len(values) > 1 and all(type(v) in (int, float) for v in values):
            rising = sorted(set(values))
            if list(values) in (rising, rising[::-1]):
                return parameter, values
    raise ValueError(
        f"knob: got {knob!r}, expected Knob(parameter, values) with at least two numbers that only rise or only fall"
    )


def _of_field(field: dataclasses.Field[object], hint: object) -> Parameter:
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    names = ("None" if m is type(None) else getattr(m, "__name__", str(m)) for m in members)
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return _parameter(field.name, " | ".join(names), default)


def _parameter(name: str, annotation: str, default: Any) -> Parameter:
    kinds = annotation.split(" | ")
    optional = "None" in kinds
    kind = " | ".join(k for k in kinds if k != "None")
    if kind not in EXPECTED:
        raise ValueError(f"parameter '{name}': got type {annotation}, expected bool, int, float or str, or one | None")
    if default is dataclasses.MISSING:
        return Parameter(name, kind, optional, required=True)
    if kind == "float" and type(default) is int:
        default = float(default)
    fits = isinstance(default, KINDS[kind]) or (optional and default is None)
    if not fits:
        raise ValueError(f"parameter '{name}': got {default!r} as default, expected {annotation}")
    return Parameter(name, kind, optional, default=default)


def _first_line(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").partition("\n")[0]
