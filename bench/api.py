"""The public Python interface: the command `run`, and records as tables of pandas.

    import l2pd_bench
    board = l2pd_bench.run(strategy=["fixed-step", "threshold"], task="mini-math", limit=20)
    samples = l2pd_bench.load_results("runs", samples=True)

What fails raises a `BenchError`; nothing exits and nothing is printed but progress. A row
is what `report --format csv` has in a line; how it is measured is not known here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2pd_bench.errors import BenchError
from l2pd_bench.schema import PROTOCOL

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from l2pd_bench.records import Run

LISTS = ("strategy", "task", "cache", "eot", "gen_length", "batch_size", "ids")  # a single value will do
PATHS = ("data_dir", "output")
OPTIONS = {"attention": "attn"}  # where the command line has another name

# Columns that are no numbers with a fraction.
_WHOLE = {"samples", "planned", "errors", "untimed", "verdict_samples_needed", "delta_pairs"}
_WHOLE |= {"speedup_pairs", "reference_speedup_pairs"}
_YES_OR_NO = {"is_baseline", "deployable", "derived", "valid"}
_WORDS = {"protocol_hash", "strategy", "run_id", "folder", "status", "invalid_reasons"}
_WORDS |= {"verdict", "verdict_speed", "verdict_loss"}
_OF_THE_FILE = ("schema_version", "seal")  # what a line of records says of itself


def run(
    suite: str | None = None,
    *,
    strategy: str | Sequence[str] | None = None,
    task: str | Sequence[str] | None = None,
    model: str | None = None,
    cache: str | Sequence[str] | None = None,
    eot: str | Sequence[str] | None = None,
    gen_length: int | Sequence[int] | None = None,
    block_length: int | None = None,
    batch_size: int | Sequence[int] | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    limit: int | None = None,
    ids: str | Sequence[str] | None = None,
    subset: int | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    attention: str | None = None,
    weights: str | None = None,
    fast: bool | None = None,
    sandbox: str | None = None,
    unsafe_code: bool | None = None,
    output: str | Path | None = None,
    timeout: float | None = None,
    trace: bool | None = None,
    watch: bool | None = None,
    executor: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    restart: bool = False,
) -> pd.DataFrame:
    """Decode tasks with strategies as `l2pd-bench run` does; the rows of its board.

    The options are that command's, and None is its default, or what the suite says. Repeating
    a call continues it: finished samples are kept. Raises a BenchError where the command
    would end with an error, after an interruption too.
    """
    told = {name: value for name, value in locals().items() if name not in ("suite", "restart") and value is not None}
    from l2pd_bench.plan import make_plan
    from l2pd_bench.runner import execute

    options = {name: _option(name, value) for name, value in told.items()}
    outcome = execute(make_plan(suite, options), command=_command(suite, options), restart=restart)
    if outcome.exit_code:
        raise BenchError(outcome.message)
    return _rows(_read(outcome.folders))


def load_results(folder: str | Path, *, samples: bool = False) -> pd.DataFrame:
    """The board of all records below a folder, a row each; or every recorded sample with its run's settings."""
    from l2pd_bench.records import load_runs

    runs = load_runs(Path(folder), whole=samples)
    return _samples(runs) if samples else _rows(runs)


def _read(folders: Iterable[Path]) -> list[Run]:
    from l2pd_bench.records import read_run

    return [run for folder in folders if (run := read_run(folder, whole=False)) is not None]


def _rows(runs: Sequence[Run]) -> pd.DataFrame:
    from l2pd_bench.report.export import flat_rows
    from l2pd_bench.report.model import make_board

    return _frame(flat_rows(make_board(runs)))


def _samples(runs: Sequence[Run]) -> pd.DataFrame:
    import pandas as pd

    found = []
    for run in runs:
        manifest = run.manifest
        keys = {
            **{"run_id": manifest.run_id, "strategy": manifest.strategy.spec, "folder": str(run.folder)},
            **{"protocol_hash": manifest.protocol_hash, **{name: manifest.protocol[name] for name in PROTOCOL}},
        }
        for sample in run.samples:
            session = manifest.segments[sample.segment].session
            told = {name: value for name, value in asdict(sample).items() if name not in _OF_THE_FILE}
            found.append({**keys, **_flat(told), "session": session})
    return pd.DataFrame(found)


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's fields; those of a group (tokens, nfe, seconds) under both names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with the same columns; a column has its type also where nothing is known."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    return frame.astype({name: _dtype(name) for name in frame})


def _dtype(name: str) -> str:
    if name in PROTOCOL:
        return {str: "string", int: "Int64", float: "float64"}[PROTOCOL[name]]
    if name in _WORDS:
        return "string"
    return "Int64" if name in _WHOLE else "boolean" if name in _YES_OR_NO else "float64"


def _option(name: str, value: Any) -> Any:
    """A value as `Plan` has it."""
    if name in LISTS:
        return [value] if isinstance(value, str | int) else list(value)
    return Path(value) if name in PATHS else value


def _command(suite: str | None, options: Mapping[str, Any]) -> str:
    """The same on the command line, as records tell it."""
    words = ["l2pd-bench", "run", *([suite] if suite else [])]
    for name, value in options.items():
        option = f"--{OPTIONS.get(name, name).replace('_', '-')}"
        if name == "fast":
            words += [] if value else ["--no-fast"]
        elif isinstance(value, bool):
            words += [option] if value else []
        else:
            words += [word for each in (value if isinstance(value, list) else [value]) for word in (option, str(each))]
    return shlex.join(words)
