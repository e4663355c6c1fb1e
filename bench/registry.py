"""Finds strategies, tasks and hosts by what a user writes, and lists them.

Built-ins come in through the same entry-point groups as a stranger's package. Nothing is
imported before it is asked for, and a broken plugin stops no other. The registry does not
know what a strategy decides, a task asks or a host computes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass, is_dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from l2pd_bench import outline, plugins, specs
from l2pd_bench.errors import BenchError, PluginError, UsageError, unknown
from l2pd_bench.outline import Outline
from l2pd_bench.plugins import Group as Group  # callers name it: registry.Group
from l2pd_bench.specs import Parameter, Scalar

if TYPE_CHECKING:  # they import torch
    from l2pd_bench.hosts.base import Host
    from l2pd_bench.strategies.base import Strategy
    from l2pd_bench.tasks.base import Task

OWN_DISTRIBUTION = "l2pd-bench"
PLUGINS_SWITCH = "L2PD_BENCH_PLUGINS"  # `off` leaves only what this distribution brings
WORDS: dict[Group, str] = {"strategies": "strategy", "tasks": "task", "hosts": "model"}


@dataclass(frozen=True)
class StrategySpec:
    """What a record says about the strategy that ran: enough to make it again.

    `params` holds every hyper-parameter, `spec` and `slug` only those that differ from
    their defaults. `code_hash` is the SHA-256 of the source file of the class, and of the
    strategy's fingerprint if it has one.
    """

    name: str
    params: dict[str, Scalar]
    spec: str
    slug: str
    distribution: str
    version: str | None
    code_hash: str


@dataclass(frozen=True)
class Entry:
    """One line of a listing. `error` says why the entry cannot be used."""

    name: str
    distribution: str
    version: str | None
    value: str  # module:attribute
    summary: str = ""
    parameters: tuple[Parameter, ...] = ()
    knob: outline.Knob | None = None
    error: str | None = None


class Origin(NamedTuple):
    """The distribution that a plugin comes from."""

    distribution: str
    version: str | None


def load_strategy(text: str) -> tuple[Strategy, StrategySpec]:
    """Make the strategy that `name:key=value,...` describes.

    The name is a registered one, `./file.py:Class` or `package.module:Class`.
    """
    name, given = specs.parse(text, "strategy")
    if ":" in name or name.endswith(".py"):
        cls, origin = _by_reference(name)
    else:
        point = _entry_point("strategies", name)
        cls, origin = _load("strategies", point), _origin(point)
    what = f"strategy '{name}'"
    parameters = outline.of_object(cls).parameters
    values = specs.convert(given, parameters, what)
    try:
        strategy: Strategy = cls(**values)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from error
    params = {p.name: values.get(p.name, p.default) for p in parameters}
    spec = specs.canonical(name, values, parameters)
    code = plugins.code_hash(cls, what, strategy.fingerprint())
    return strategy, StrategySpec(name, params, spec, specs.slug(spec), *origin, code)


def load_task(text: str, *, data_dir: Path | None = None, chat: bool = False) -> Task:
    """Make the task that `name:key=value,...` describes; of `name:word` the word is its first required parameter.

    Fills in what tasks/base.py says of `form` and `data_dir`.
    """
    name, given = specs.parse(text, "task")
    name, _, word = name.partition(":")
    point = _entry_point("tasks", name)
    make = _load("tasks", point)
    what = f"task '{name}'"
    parameters = outline.of_object(make).parameters
    required = [p.name for p in parameters if p.required]
    if word and (not required or required[0] in given):
        raise UsageError(f"task: got '{text}', expected {name} without ':{word}', which says nothing to it")
    written = {**({required[0]: word} if word else {}), **given}
    for key, value in (("form", "instruct" if chat else "base"), ("data_dir", str(data_dir) if data_dir else None)):
        if value is not None and any(p.name == key for p in parameters):
            written.setdefault(key, value)
    return plugins.make_task(make, specs.convert(written, parameters, what), point.name, _where("tasks", point))


def task_spec(task: Task) -> str:
    """The one way to write a task with its parameters, but for where its data is."""
    if not is_dataclass(task):
        return task.name
    parameters = outline.of_object(type(task)).parameters
    values = {p.name: getattr(task, p.name) for p in parameters if p.name != "data_dir"}
    return specs.canonical(task.name.partition(":")[0], values, parameters)


def load_host(text: str, **options: str | bool | None) -> Host:
    """Load the host that `name:key=value,...` describes.

    The name is a registered one, or a checkpoint: a folder, or a repository of the hub. The
    loader of a checkpoint is the one registered under its model type. `options` are the
    fields of `HostRequest` that say how to compute.
    """
    from l2pd_bench.hosts.base import HostRequest

    name, params = specs.parse(text, "model")
    if name in _entry_points("hosts") or not _may_be_checkpoint(name):
        request = HostRequest(name, params, **options)  # type: ignore[arg-type]  # the names of its fields
        host: Host = _load("hosts", _entry_point("hosts", name))(request)
        return host
    from l2pd_bench.hosts.checkpoint import locate

    has_weights = options.get("weights") != "random"
    revision = options.pop("revision", None)
    found = locate(name, str(revision) if revision else None, weights=has_weights)
    if found.model_type not in _entry_points("hosts"):
        kinds = ", ".join(sorted(_entry_points("hosts")))
        raise UsageError(
            f"model: got '{name}', whose config.json has the model_type '{found.model_type}', expected one of {kinds}"
        )
    loader = _load("hosts", _entry_point("hosts", found.model_type))
    request = HostRequest(found.name, params, found.folder, found.revision, **options)  # type: ignore[arg-type]
    loaded: Host = loader(request)
    return loaded


def _may_be_checkpoint(name: str) -> bool:
    """Whether a name that is not registered can mean a folder or a repository."""
    return "/" in name or Path(name).is_dir()


def catalog(group: Group) -> list[Entry]:
    """Everything registered in a group, by name; what cannot be used carries its error.

    Built-ins are read from their source where that is enough; other plugins are imported,
    because only that shows whether they work.
    """
    entries = []
    for name, points in sorted(_entry_points(group).items()):
        for point in points:
            about, error = Outline(""), None
            try:
                _only(group, points)
                about = (_is_own(point) and _from_source(point)) or _from_object(group, point)
            except BenchError as problem:
                error = str(problem)
            entries.append(Entry(name, *_origin(point), point.value, **about._asdict(), error=error))
    return entries


def _entry_points(group: Group) -> dict[str, list[EntryPoint]]:
    """The entry points of a group by name; more than one for a name is for `_only` to report."""
    switch = os.environ.get(PLUGINS_SWITCH, "on")
    if switch not in ("on", "off"):
        raise unknown(PLUGINS_SWITCH, switch, ("on", "off"))
    found: dict[str, list[EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=f"l2pd_bench.{group}"):
        if switch == "on" or _is_own(point):
            found.setdefault(point.name, []).append(point)
    return found


def _entry_point(group: Group, name: str) -> EntryPoint:
    found = _entry_points(group)
    if name not in found:
        raise unknown(WORDS[group], name, found)
    return _only(group, found[name])


def _only(group: Group, points: list[EntryPoint]) -> EntryPoint:
    if len(points) > 1:
        owners = " and ".join(sorted(f"{_origin(point).distribution} ({point.value})" for point in points))
        raise PluginError(f"{WORDS[group]} '{points[0].name}': got it from {owners}, expected one; uninstall the other")
    return points[0]


def _origin(point: EntryPoint) -> Origin:
    return Origin(point.dist.name, point.dist.version) if point.dist else Origin("(unknown)", None)


def _is_own(point: EntryPoint) -> bool:
    return re.sub(r"[-_.]+", "-", _origin(point).distribution).lower() == OWN_DISTRIBUTION


def _load(group: Group, point: EntryPoint) -> Any:
    return plugins.load(group, point, _where(group, point))


def _where(group: Group, point: EntryPoint) -> str:
    distribution, version = _origin(point)
    return f"{WORDS[group]} '{point.name}' of {distribution} {version} ({point.value})"


def _from_object(group: Group, point: EntryPoint) -> Outline:
    thing = _load(group, point)
    about = outline.of_object(thing)
    if group == "tasks" and not any(p.required for p in about.parameters):
        plugins.make_task(thing, {}, point.name, _where(group, point))  # only that shows whether it is whole
    return about


def _from_source(point: EntryPoint) -> Outline | None:
    found = importlib.util.find_spec(point.module)
    if found is None or found.origin is None:
        return None
    return outline.of_source(Path(found.origin).read_text("utf-8"), point.attr)


def _by_reference(name: str) -> tuple[Any, Origin]:
    """The strategy class that `./file.py:Class` or `package.module:Class` names."""
    target, _, attribute = name.rpartition(":")
    is_file = target.endswith(".py")
    is_module = all(part.isidentifier() for part in target.split(".")) and target not in _entry_points("strategies")
    if not attribute.isidentifier() or not (is_file or is_module):
        forms = "name, name:key=value,key=value, ./file.py:Class or package.module:Class"
        raise UsageError(f"strategy: got '{name}', expected {forms}")
    cls = plugins.load_reference(target, attribute)
    if is_file:
        return cls, Origin("(file)", None)
    owners = importlib.metadata.packages_distributions().get(target.partition(".")[0])
    return cls, Origin(owners[0], importlib.metadata.version(owners[0])) if owners else Origin("(module)", None)
