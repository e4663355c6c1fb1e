"""Whether a failure is a lack of memory, and what can be given back before the next attempt.

What is then decoded in a smaller batch is the worker's affair.
"""

from __future__ import annotations

import gc

import torch

from l2pd_bench.hosts.graphs import forget_all

# What torch's allocators of devices that have no error class of their own, and libraries below them, say.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there, on a device or beside it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def free(device: torch.device) -> None:
    """Give back what a failed decode has left; its exception, which holds tensors, must be gone."""
    forget_all()
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
