"""Where a checkpoint's files are, and what its config.json says.

A checkpoint is a folder, or a repository of the Hugging Face hub, of which only data is
taken: JSON, safetensors and tokenizer files, never code or pickles. What its fields
mean is for the families to know (`llada.py`, `dream.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2pd_bench.errors import UsageError

CONFIG = "config.json"
LOCAL = "local"  # the revision of a folder
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
TEXT_FILES = ("*.json", "*.jinja", "*.txt")  # configurations, tokenizers, chat templates
WEIGHT_FILES = ("*.safetensors",)


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model. `revision` is the commit of a repository, "local" for a folder."""

    name: str  # the repository's, or the folder's own
    folder: Path
    revision: str
    model_type: str  # in lower case
    config: dict[str, Any]


def locate(name: str, revision: str | None, *, download: bool = True, weights: bool = True) -> Checkpoint:
    """The checkpoint in folder `name`, or in the hub repository of that name if there is no such folder.

    Of a repository, `revision` is a branch, a tag or a commit (None: its default branch);
    without `weights`, those are not downloaded. Raises UsageError if there is none, or none
    with a model type.
    """
    folder, commit = find_folder(name, revision, download=download, weights=weights)
    config = read_json(folder / CONFIG, "model")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise UsageError(
            f"model: got the model_type {model_type!r} in '{folder / CONFIG}', expected the name of a model's family"
        )
    if commit == LOCAL:
        name = folder.name if folder.name not in ("", "..") else folder.resolve().name
    return Checkpoint(name, folder, commit, model_type.lower(), config)


def find_folder(
    name: str, revision: str | None, *, download: bool, weights: bool = True, what: str = "model"
) -> tuple[Path, str]:
    """Where the files of a folder or repository are, and their revision; `what` asks for them, in errors."""
    if name and (folder := Path(name).expanduser()).is_dir():
        if revision is not None:
            raise UsageError(f"revision: got '{revision}' for the folder '{name}', which has only one; leave it out")
        return folder, LOCAL
    if not REPOSITORY.fullmatch(name):
        raise _missing(what, name, revision, download, "there is no such folder, and no repository has such a name")
    from huggingface_hub import snapshot_download

    patterns = [*TEXT_FILES, *(WEIGHT_FILES if weights else ())]
    aside = ["*/*"]  # such as copies of the weights in other formats
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=aside, local_files_only=not download
        )
    except Exception as error:  # of its own kinds, of the network's, or OSError and ValueError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _missing(what, name, revision, download, reason) from error
    return Path(found), Path(found).name


def _missing(what: str, name: str, revision: str | None, download: bool, reason: str) -> UsageError:
    at = f" at revision '{revision}'" if revision is not None else ""
    if download:
        wanted = "a hub id (owner/name) that can be downloaded; check the name, the revision and the network"
    else:
        wanted = (
            "a hub id of which this machine has a copy; nothing is downloaded during a run, so call 'hf download' with "
            "a hub id first"
        )
    return UsageError(f"{what}: got '{name}'{at}, expected a folder, or {wanted} ({reason})")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file; a UsageError that begins with `what` if there is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{what}: '{path}' cannot be read ({error}); expected a {path.name} as Hugging Face has it"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{what}: got {type(content).__name__} in '{path}', expected an object")
    return content


@dataclass(frozen=True)
class Fields:
    """The fields of a config.json. None has a default: a checkpoint says itself how it is computed."""

    values: Mapping[str, Any]
    where: str  # for errors

    @classmethod
    def of_folder(cls, folder: Path) -> Fields:
        """Those of a checkpoint's folder."""
        return cls(read_json(folder / CONFIG, "model"), str(folder / CONFIG))

    def number(self, name: str) -> float:
        """A positive number."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
            raise self.wrong(name, "a positive number")
        return value

    def whole(self, name: str, least: int = 1) -> int:
        """A whole number, at least `least`."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, f"a whole number, at least {least}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def require(self, allowed: Mapping[str, tuple[Any, ...]]) -> None:
        """Raise UsageError unless each field has one of its values; None stands for a field that is not there."""
        for name, values in allowed.items():
            if self.values.get(name) not in values:
                wanted = " or ".join("nothing" if value is None else json.dumps(value) for value in values)
                raise self.wrong(name, f"{wanted}, as nothing else is implemented")

    def wrong(self, name: str, wanted: str) -> UsageError:
        """The error for a field that is missing, or not as `wanted`."""
        got = f"{name} = {json.dumps(self.values[name])}" if name in self.values else f"no {name}"
        return UsageError(f"model: got {got} in '{self.where}', expected {wanted}")
