"""Imports a plugin and checks that it has the shape of what it was registered as.

Whatever goes wrong in a stranger's module becomes a PluginError with the original error's
text. It does not know how a plugin was found: by entry point, by file or by module.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from l2pd_bench.errors import BenchError, PluginError, UsageError, unknown
from l2pd_bench.specs import Scalar

if TYPE_CHECKING:
    from l2pd_bench.tasks.base import Task

Group = Literal["strategies", "tasks", "hosts"]

TASK_PARTS = ("name", "gen_length", "stop", "prompt_format", "few_shot", "grading", "data_hash", "items", "grade")


def load(group: Group, point: EntryPoint, where: str) -> Any:
    """Import what an entry point names: a strategy class, what makes a task, or a host's loader.

    `where` says whose entry point it is, for errors.
    """
    try:
        thing = point.load()
    except BenchError:
        raise
    except (Exception, SystemExit) as error:  # some modules call sys.exit when they are imported
        raise _broken(where, error) from error
    if group == "hosts":
        _check_host_loader(thing, where)
    elif group == "tasks":
        if not callable(thing):
            raise PluginError(f"{where}: got {thing!r}, expected a class or function that makes a task")
    else:
        _check_strategy(thing, where)
        _check_name(thing.name, point.name, where)
    return thing


def make_task(make: Callable[..., Task], values: Mapping[str, Scalar], name: str, where: str) -> Task:
    """Call what makes a task registered as `name`, and check that it is whole."""
    try:
        task = make(**values)
        _check_task(task, where)
        _check_name(task.name.partition(":")[0], name, where)
    except BenchError:
        raise
    except ValueError as error:
        raise UsageError(f"task '{name}': {error}") from error
    except Exception as error:
        raise _broken(where, error) from error
    return task


def load_reference(target: str, attribute: str) -> Any:
    """Import the strategy class `attribute` of `target`, a path that ends in .py or a dotted module name."""
    where = f"strategy '{target}:{attribute}'"
    is_file = target.endswith(".py")
    if is_file and not Path(target).is_file():
        raise UsageError(f"{where}: there is no file '{target}'")
    try:
        module = _import_file(Path(target)) if is_file else importlib.import_module(target)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{target}.".startswith(f"{error.name}."):
            raise UsageError(f"{where}: there is no module '{error.name}'") from error
        raise _broken(where, error) from error
    if not hasattr(module, attribute):
        classes = (key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        raise unknown(f"class in {target}", attribute, classes)
    thing = getattr(module, attribute)
    _check_strategy(thing, where)
    return thing


def code_hash(cls: type, where: str, fingerprint: str) -> str:
    """SHA-256 (hex) of the source file of a class, followed by `fingerprint`."""
    source = inspect.getsourcefile(cls)
    if source is None:
        raise PluginError(f"{where}: got no source file, expected one, because records hold its hash")
    return hashlib.sha256(Path(source).read_bytes() + fingerprint.encode()).hexdigest()


def _import_file(path: Path) -> ModuleType:
    # Under a name of its own: it hides no other module, and two files never meet.
    name = f"l2pd_bench_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _broken(where: str, error: BaseException) -> PluginError:
    return PluginError(f"{where}: cannot be loaded: {type(error).__name__}: {error}")


def _check_strategy(thing: object, where: str) -> None:
    from l2pd_bench.strategies.base import Strategy  # imports torch, as every strategy does

    if not isinstance(thing, type) or not is_dataclass(thing):
        raise PluginError(f"{where}: got {thing!r}, expected a class decorated with @dataclass(frozen=True)")
    if not thing.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # typeshed leaves it out
        raise PluginError(f"{where}: got a dataclass that can change, expected @dataclass(frozen=True)")
    if not isinstance(getattr(thing, "name", None), str):
        raise PluginError(f"{where}: got no name, expected `name: ClassVar[str]`")
    begin, select = getattr(thing, "begin", None), getattr(thing, "select", None)
    if Strategy not in thing.__mro__ or (begin is Strategy.begin and select is Strategy.select):
        raise PluginError(f"{where}: got neither select() nor begin(), expected a subclass of Strategy with either")


def _check_name(got: str, expected: str, where: str) -> None:
    if got != expected:
        raise PluginError(f"{where}: got name = '{got}', expected '{expected}', as it is registered")


def _check_task(thing: object, where: str) -> None:
    # Statically: reading the data hash would read the data.
    missing = [part for part in TASK_PARTS if inspect.getattr_static(thing, part, None) is None]
    if missing:
        raise PluginError(f"{where}: got no {', '.join(missing)}, expected all of l2pd_bench.tasks.base.Task")


def _check_host_loader(thing: object, where: str) -> None:
    expected = "expected a function load(request)"
    if not callable(thing):
        raise PluginError(f"{where}: got {thing!r}, {expected}")
    try:
        inspect.signature(thing).bind(None)
    except TypeError as error:
        raise PluginError(f"{where}: got another signature ({error}), {expected}") from error
