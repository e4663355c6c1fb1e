"""Puts a board into what keeps experiments: wandb, trackio, tensorboard, or files such as `evaluate.save` writes.

A row is a run there: its settings, strategy and environment are the configuration, its
numbers, as computed, the summary. What is not known is left out, never written as 0. How
a number was made is not known here.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from l2pd_bench.errors import UsageError
from l2pd_bench.report.board import Board, Row, Section
from l2pd_bench.report.export import flat_rows
from l2pd_bench.report.markdown import escaped, to_markdown
from l2pd_bench.schema import PROTOCOL
from l2pd_bench.specs import Scalar, slug

PROJECT = "l2pd-bench"
BOARD = "board"  # the run that holds the table of all rows


@dataclass(frozen=True)
class Entry:
    """One row, as a run of a service."""

    name: str  # task/strategy--setting, as its folder of records
    config: dict[str, Any]
    summary: dict[str, Scalar]
    ended: datetime

    @property
    def numbers(self) -> dict[str, float]:
        """The part of the summary that can be drawn."""
        return {k: v for k, v in self.summary.items() if isinstance(v, int | float) and not isinstance(v, bool)}

    @property
    def flat_config(self) -> dict[str, Scalar]:
        """The configuration without groups, for what knows none."""
        return dict(_flat("", self.config))


def export(board: Board, service: str, folder: Path | None, project: str) -> str:
    """Write a board to one of `SERVICES`; returns a line on where it is. `folder`: None is the service's own place."""
    package, write = SERVICES[service]
    if find_spec(package) is None:
        raise UsageError(f"export: --to {service} needs the package {package}; pip install {package}")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"output: got '{folder}' (a file), expected a folder")
    entries = entries_of(board)
    where = write(entries, board, folder, project)
    return f"{len(entries)} rows: {where}"


def entries_of(board: Board) -> list[Entry]:
    """The rows of a board, in its order."""
    pairs = [(section, row) for section in board.sections for row in section.rows]
    used: Counter[str] = Counter()
    return [_entry(section, row, flat, used) for (section, row), flat in zip(pairs, flat_rows(board), strict=True)]


def _entry(section: Section, row: Row, flat: Mapping[str, Scalar], used: Counter[str]) -> Entry:
    manifest = row.run.manifest
    known = {k: v for k, v in flat.items() if v is not None and not (isinstance(v, float) and not math.isfinite(v))}
    strategy = manifest.strategy
    config = {
        "protocol": {**section.protocol},
        "protocol_hash": section.protocol_hash,
        "strategy": {"spec": strategy.spec, "name": strategy.name, "params": dict(strategy.params)},
        "environment": dict(manifest.environment),
        "git_commit": manifest.git.commit,
        "command": manifest.command,
    }
    name = f"{slug(section.task)}/{strategy.slug}--{section.protocol_hash[:8]}"
    used[name] += 1  # the same run may lie in several results folders
    name += f"-{used[name]}" if used[name] > 1 else ""
    ended = datetime.fromisoformat(manifest.finished or manifest.started)
    return Entry(name, config, {k: v for k, v in known.items() if k not in PROTOCOL}, ended)


def _flat(name: str, value: Any) -> Sequence[tuple[str, Scalar]]:
    if isinstance(value, dict):
        return [pair for key, each in value.items() for pair in _flat(f"{name}.{key}" if name else key, each)]
    if value is None:
        return []
    return [(name, value if isinstance(value, Scalar) else json.dumps(value))]


def _to_evaluate(entries: Sequence[Entry], board: Board, folder: Path | None, project: str) -> str:
    """The keys and names of `evaluate.save`; that itself would stamp them with this process instead of the run's."""
    root = folder or Path("evaluate-results")
    for entry in entries:
        path = root / entry.name / f"result-{entry.ended:%Y_%m_%d-%H_%M_%S}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        stamps = {
            "_timestamp": entry.ended.isoformat(),
            "_git_commit_hash": entry.config["git_commit"],
            "_evaluate_version": version("evaluate"),
            "_python_version": entry.config["environment"].get("python"),
            "_interpreter_path": None,
        }
        path.write_text(json.dumps({**entry.config, **entry.summary, **stamps}, allow_nan=False), "utf-8")
    return f"one result-*.json each below {root}"


def _to_wandb(entries: Sequence[Entry], board: Board, folder: Path | None, project: str) -> str:
    wandb: Any = import_module("wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    place = folder or Path(os.environ.get("WANDB_DIR", "."))
    place.mkdir(parents=True, exist_ok=True)

    def begin(name: str, config: dict[str, Any]) -> Any:
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        return wandb.init(project=project, name=name, config=config, dir=place, mode=mode, settings=settings)

    for entry in entries:
        with begin(entry.name, entry.config) as run:
            run.summary.update(entry.summary)
    columns, rows = _table(entries)
    with begin(BOARD, {}) as run:
        run.log({BOARD: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
    if mode == "offline":
        return f"offline, in {place / 'wandb'}; wandb sync {place / 'wandb'}/offline-run-* uploads them"
    return f"project {project}, WANDB_MODE {mode}"


def _to_trackio(entries: Sequence[Entry], board: Board, folder: Path | None, project: str) -> str:
    if folder is not None:
        os.environ["TRACKIO_DIR"] = str(folder.absolute())  # read once, when the package is imported
    import pandas as pd  # type: ignore[import-untyped]

    trackio: Any = import_module("trackio")
    place = Path(import_module("trackio.utils").TRACKIO_DIR)
    if folder is not None and place != folder.absolute():
        raise UsageError(f"output: got '{folder}', but trackio is already in use with {place}; leave it out")
    columns, rows = _table(entries)
    cells = [[escaped(v) if isinstance(v, str) else v for v in row] for row in rows]  # it takes text for Markdown
    table = trackio.Table(dataframe=pd.DataFrame(cells, columns=columns, dtype=object))
    with redirect_stdout(sys.stderr):  # it tells of its progress
        for entry in entries:
            _log_trackio(trackio, project, entry.name, entry.flat_config, dict(entry.summary))
        _log_trackio(trackio, project, BOARD, {}, {BOARD: table})
    return f"project {project} in {place}; trackio show --project {project}"


def _log_trackio(trackio: Any, project: str, name: str, config: dict[str, Scalar], values: dict[str, Any]) -> None:
    trackio.init(project=project, name=name, config=config, embed=False, auto_log_gpu=False, auto_log_cpu=False)
    trackio.log(values)
    trackio.finish()


def _to_tensorboard(entries: Sequence[Entry], board: Board, folder: Path | None, project: str) -> str:
    from torch.utils.tensorboard import SummaryWriter

    root = folder or Path("tensorboard-logs")
    if root.is_dir() and any(root.iterdir()):
        raise UsageError(f"output: got '{root}', which is not empty; tensorboard would mix both, choose another folder")
    for entry in entries:
        with SummaryWriter(str(root / entry.name)) as writer:
            config = {**entry.flat_config, **{k: v for k, v in entry.summary.items() if k not in entry.numbers}}
            writer.add_hparams(config, dict(entry.numbers), run_name=".")
            writer.add_text("row", json.dumps(entry.summary))  # scalars are float32
    with SummaryWriter(str(root / BOARD)) as writer:
        writer.add_text(BOARD, to_markdown(board))
    return f"tensorboard --logdir {root}"


def _table(entries: Sequence[Entry]) -> tuple[list[str], list[list[Scalar]]]:
    """Names of columns, and the rows; what is not known is None."""
    columns = list(dict.fromkeys(name for entry in entries for name in entry.summary))
    return ["run", *columns], [[entry.name, *map(entry.summary.get, columns)] for entry in entries]


Write = Callable[[Sequence[Entry], Board, Path | None, str], str]
SERVICES: dict[str, tuple[str, Write]] = {  # the package that each needs
    "evaluate": ("evaluate", _to_evaluate),
    "wandb": ("wandb", _to_wandb),
    "trackio": ("trackio", _to_trackio),
    "tensorboard": ("tensorboard", _to_tensorboard),
}
