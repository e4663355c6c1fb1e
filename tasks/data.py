"""Reads the items of a test set: from a file in `--data-dir`, else from the Hugging Face hub.

It checks that every item has the fields a task needs, and knows nothing of what they mean.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2pd_bench.errors import UsageError

Row = dict[str, Any]

WORDS: dict[type, str] = {str: "text", int: "a whole number", list: "a list of texts"}


@dataclass(frozen=True)
class Source:
    """Where a test set is found, and what an item must have.

    `file` is its name in `--data-dir`, also with `.gz` behind it; `url` is where such a
    file, or what it is made of, can be got. `parts` are the configurations and splits of
    the repository `hub` that make up the same items, in this order. `key` is the field
    that names an item, if one does.
    """

    file: str
    url: str
    hub: str
    parts: tuple[tuple[str | None, str], ...]
    fields: Mapping[str, type]
    key: str | None = None


def read(source: Source, data_dir: str | None) -> list[Row]:
    """The items of a test set. Raises UsageError where it cannot be had, or is not what it should be."""
    rows = list(_rows_of_hub(source)) if data_dir is None else read_file(find(source, data_dir))
    return check(rows, source.fields, source.key)


def find(source: Source, data_dir: str) -> Path:
    """The file of a test set in a folder; UsageError if there is none."""
    folder = Path(data_dir)
    if not folder.is_dir():
        raise UsageError(f"--data-dir: got '{data_dir}', which is no folder; expected one that holds {source.file}")
    for name in (source.file, f"{source.file}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"--data-dir: got '{data_dir}', which has no {source.file} (nor {source.file}.gz); get it from {source.url}, "
        "or leave --data-dir out to load it from the Hugging Face hub"
    )


def read_file(path: Path) -> list[tuple[str, object]]:
    """What the lines of a JSON-lines file hold, each with a name for its place."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode().split("\n")  # splitlines() would also split at U+2028, which JSON may hold
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"data: got '{path}', which cannot be read ({error}); get it anew") from error
    return [(f"{path}, line {n}", _parse(line, path, n)) for n, line in enumerate(lines, 1) if line.strip()]


def check(rows: Iterable[tuple[str, object]], fields: Mapping[str, type], key: str | None = None) -> list[Row]:
    """The items, each with all fields and a name of its own; UsageError otherwise."""
    found: list[Row] = []
    places: dict[object, str] = {}
    where = ""
    for where, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"data: {where}: got {_short(row)}, expected an object with {', '.join(fields)}")
        for name, kind in fields.items():
            if name not in row:
                raise UsageError(f"data: {where}: got no '{name}', expected it to be {WORDS[kind]}")
            if not _fits(row[name], kind):
                raise UsageError(f"data: {where}: {name}: got {_short(row[name])}, expected {WORDS[kind]}")
        if key is not None and (first := places.setdefault(row[key], where)) != where:
            raise UsageError(f"data: {where}: got {key} {row[key]!r}, which {first} has too; expected each once")
        found.append(row)
    if not found:
        raise UsageError(f"data: got no item at all, expected some with {', '.join(fields)}")
    return found


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, list):
        return kind is list and all(isinstance(one, str) for one in value)
    return isinstance(value, kind) and not isinstance(value, bool)


def _parse(line: str, path: Path, number: int) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UsageError(f"data: {path}, line {number}: got no JSON ({error}), expected one object a line") from error


def _rows_of_hub(source: Source) -> Iterator[tuple[str, object]]:
    import datasets

    for config, split in source.parts:
        where = " ".join(word for word in (source.hub, config, split) if word)
        try:
            rows = datasets.load_dataset(source.hub, config, split=split)
        except Exception as error:
            raise UsageError(
                f"data: cannot load '{where}' from the Hugging Face hub ({type(error).__name__}: {error}); without a "
                f"network, get {source.file} from {source.url} and name its folder with --data-dir"
            ) from error
        yield from ((f"{where}, row {n}", dict(row)) for n, row in enumerate(rows))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
