"""Other programs on the accelerator: while one computes there, no second of ours is a measurement.

Asks NVIDIA's own tool, between batches. A CPU is shared by nature; what others do to it
shows as drift and as spread.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from time import monotonic

import torch

TOOL = "nvidia-smi"
EVERY_S = 10.0


class ForeignWatch:
    """Looks at the device now and then; `see` returns what is on it besides this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._looked: float | None = None

    def see(self, *, always: bool = False) -> list[str]:
        """Programs as "name (pid)"; none if it was looked at in the last seconds, unless `always`."""
        if self._device is None or (not always and self._looked is not None and monotonic() - self._looked < EVERY_S):
            return []
        self._looked = monotonic()
        return foreign_programs(self._device)


def foreign_programs(device: torch.device) -> list[str]:
    """What computes on a CUDA device besides this process.

    In a container the tool may know this process by another pid, or list none at all: of
    programs that cannot be told apart, one is taken to be ours. Without the tool nothing is seen.
    """
    if shutil.which(TOOL) is None:
        return []
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    query = [TOOL, "--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader"]
    try:
        # In a session of its own: Ctrl-C is for this process, and a tool that it ends would look like a disturbance.
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False, start_new_session=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"unknown: {TOOL} did not answer ({type(error).__name__})"]
    if done.returncode != 0:
        return [f"unknown: {TOOL} ended with {done.returncode}"]
    return others(done.stdout, uuid, os.getpid())


def others(table: str, uuid: str, own_pid: int) -> list[str]:
    """The programs of one device in the tool's csv, less our own."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(table.splitlines()) if len(row) >= 3]
    here = [(pid, name) for gpu, pid, name, *_ in rows if gpu.removeprefix("GPU-") == uuid.removeprefix("GPU-")]
    known = [(pid, name) for pid, name in here if pid != str(own_pid)]
    if len(known) == len(here):  # our own pid is not among them
        known = known[1:]
    return [f"{name} ({pid})" for pid, name in known]
