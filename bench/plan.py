"""What a `run` command asks for, checked before anything is loaded or written.

A plan is a matrix: every strategy on every task under every setting; or several matrices
that share all but what they span. It comes from a named suite, from options, or from
both (an option replaces what the suite says, in all of its matrices).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from l2pd_bench.errors import UsageError, unknown

TIMEOUT_MOST_S = 1e6  # eleven days; timers take not much more
EXECUTORS = ("local", "ray")
SPANNING = ("strategy", "cache", "eot", "gen_length", "batch_size")  # what the matrices of a suite may differ in


class Setting(NamedTuple):
    """One place of the matrix, but for strategy and task."""

    gen_length: int
    cache: str
    eot: str
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The matrix and everything common to its cells. Lists span the matrix."""

    strategy: list[str]
    task: list[str]
    model: str = "mini"
    cache: list[str] = field(default_factory=lambda: ["none"])
    eot: list[str] = field(default_factory=lambda: ["decode"])
    gen_length: list[int] = field(default_factory=list)  # empty: the task's own
    block_length: int = 32
    batch_size: list[int] = field(default_factory=lambda: [1])
    temperature: float = 0.0
    seed: int = 0
    limit: int | None = None  # at most one of these three
    ids: list[str] = field(default_factory=list)
    subset: int | None = None
    data_dir: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    attention: str | None = None
    weights: str | None = None
    fast: bool = True  # False: the plain way to compute, to judge the fast one by
    sandbox: str | None = None
    unsafe_code: bool = False
    output: Path = Path("runs")
    timeout: float | None = None  # seconds that one decode of a batch may take
    trace: bool = False  # write down every step, in a second decode that is not timed
    watch: bool = False  # show that decode in the terminal
    executor: str = "local"  # who decodes: this process, or ray's workers, one on each device
    address: str | None = None  # of a ray cluster; none: this machine alone
    workers: int | None = None  # at most so many; none: one for each GPU
    matrices: tuple[Mapping[str, Any], ...] = ()  # each replaces some of the lists; none: one matrix, of the lists

    def __post_init__(self) -> None:
        """Raise UsageError for numbers out of range and for values given twice."""
        for name in ("limit", "subset", "block_length"):
            _at_least(1, name, getattr(self, name))
        for value in self.batch_size:
            _at_least(1, "batch_size", value)
        for value in self.gen_length:
            _at_least(1, "gen_length", value)
        _at_least(0, "seed", self.seed)
        if self.timeout is not None and not 0 < self.timeout < TIMEOUT_MOST_S:
            raise UsageError(f"timeout: got {self.timeout:g}, expected seconds, above 0 and below {TIMEOUT_MOST_S:g}")
        _at_least(1, "workers", self.workers)
        self._check_executor()
        if self.output.exists() and not self.output.is_dir():
            raise UsageError(f"output: got '{self.output}' (a file), expected a folder")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise UsageError(f"data-dir: got '{self.data_dir}', expected a folder of item files")
        if len(given := [name for name in ("limit", "ids", "subset") if getattr(self, name)]) > 1:
            raise UsageError(f"got --{given[0]} and --{given[1]}, expected one way to choose items")
        if self.device == "meta":
            raise UsageError("device: got 'meta', which computes nothing; try cpu")
        for name in ("strategy", "task", "cache", "eot", "gen_length", "batch_size", "ids"):
            values = getattr(self, name)
            if twice := [v for v in values if values.count(v) > 1]:
                raise UsageError(f"{_option(name)}: got '{twice[0]}' twice, expected each value once")
        for matrix in self.matrices:
            replace(self, **matrix, matrices=())  # checks its lists

    def _check_executor(self) -> None:
        if self.executor not in EXECUTORS:
            raise unknown("executor", self.executor, EXECUTORS)
        if self.executor == "local":
            if given := [name for name in ("address", "workers") if getattr(self, name) is not None]:
                raise UsageError(f"{given[0]}: got '{getattr(self, given[0])}' without --executor ray; add that")
            return
        if shown := [name for name in ("trace", "watch") if getattr(self, name)]:
            raise UsageError(
                f"{shown[0]}: got it with --executor ray, whose workers show no steps; decode the samples in question "
                "with --executor local and --ids"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(
                f"device: got '{self.device}' with --executor ray, expected cuda, cpu or auto: a worker has one device"
            )

    @property
    def host_options(self) -> dict[str, str | bool | None]:
        """How the model shall compute: fields of `HostRequest`."""
        return {name: getattr(self, name) for name in ("device", "dtype", "revision", "attention", "weights", "fast")}

    def settings(self, gen_length: int) -> dict[Setting, list[str]]:
        """Every setting of the matrices with its strategies; `gen_length` is the task's, where no other is named."""
        found: dict[Setting, list[str]] = {}
        for matrix in self.matrices or ({},):
            plan = replace(self, **matrix, matrices=())
            for values in product(plan.gen_length or [gen_length], plan.cache, plan.eot, plan.batch_size):
                strategies = found.setdefault(Setting(*values), [])
                strategies += [text for text in plan.strategy if text not in strategies]
        return found


def make_plan(suite: str | None, options: Mapping[str, Any]) -> Plan:
    """The plan of a suite's settings, replaced by `options` where given."""
    settings = read_suite(suite) if suite else {}
    matrices = settings.pop("matrices", ())
    if strategies := [text for matrix in matrices for text in matrix.get("strategy", ())]:
        settings["strategy"] = list(dict.fromkeys([*settings.get("strategy", ()), *strategies]))
    settings["matrices"] = tuple({k: v for k, v in matrix.items() if k not in options} for matrix in matrices)
    settings |= options
    for name in ("strategy", "task"):
        if not settings.get(name):
            raise UsageError(
                f"{name}: got none, expected at least one --{name} NAME or a suite ({', '.join(suites())}); "
                f"'l2pd-bench list' shows what there is"
            )
    return Plan(**settings)


def suites() -> list[str]:
    """Names of the suites in the package."""
    found = (path.name for path in files("l2pd_bench").iterdir() if path.name.startswith("suite_"))
    return sorted(name.removeprefix("suite_").removesuffix(".yaml") for name in found)


def read_suite(name: str) -> dict[str, Any]:
    """A suite's settings: the same keys as the options, lists for the repeatable ones."""
    import yaml

    if name not in suites():
        raise unknown("suite", name, suites())
    settings: dict[str, Any] = yaml.safe_load(files("l2pd_bench").joinpath(f"suite_{name}.yaml").read_text("utf-8"))
    known = [f.name for f in fields(Plan)]
    inner = [key for matrix in settings.get("matrices", ()) for key in matrix]
    for keys, allowed in ((settings, known), (inner, SPANNING)):
        for key in keys:
            if key not in allowed:
                raise unknown(f"suite '{name}': setting", key, allowed)
    return settings


def _at_least(least: int, name: str, value: int | None) -> None:
    if value is not None and value < least:
        raise UsageError(f"{_option(name)}: got {value}, expected at least {least}")


def _option(name: str) -> str:
    return name.replace("_", "-")
