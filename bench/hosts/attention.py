"""Which of torch's attention kernels a host computes with, by the names that records hold.

A kernel that is asked for by name is the one that runs, or there is an error: no other
kernel ever takes its place.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from l2pd_bench.errors import UsageError, unknown

KERNELS = {
    "sdpa": None,  # torch chooses, by shapes and mask
    "sdpa-math": SDPBackend.MATH,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-graphs": None,  # as sdpa, but forwards that feed a block alone are replayed (`graphs.py`)
}


@dataclass(frozen=True)
class Attention:
    """A kernel that runs here. `takes_masks`: also on rows that have not all columns."""

    name: str = "sdpa"
    takes_masks: bool = True

    @property
    def is_replayed(self) -> bool:
        """Whether forwards of a block alone are recorded and replayed."""
        return self.name == "sdpa-graphs"

    def only(self) -> AbstractContextManager[None]:
        """Within it, torch uses this kernel or raises."""
        kernel = KERNELS[self.name]
        context: AbstractContextManager[None] = nullcontext() if kernel is None else sdpa_kernel(kernel)
        return context

    def require_masks(self) -> None:
        """Raise UsageError if it cannot compute a batch whose rows differ in length."""
        if not self.takes_masks:
            raise UsageError(
                f"attn: got '{self.name}' and a batch whose rows differ in length, which need a mask that this kernel "
                "does not take; use --batch-size 1, or --attn sdpa"
            )


SDPA = Attention()


def find_attention(name: str | None, head_dim: int, *, device: torch.device, dtype: torch.dtype) -> Attention:
    """The kernel of that name, None for torch's own choice, after a call with and one without a mask.

    Raises UsageError for an unknown name, and for a kernel that cannot run on this device
    with this dtype and head size.
    """
    name = name or SDPA.name
    if name not in KERNELS:
        raise unknown("attn", name, KERNELS)
    if name == "sdpa-graphs" and device.type != "cuda":
        raise UsageError(f"attn: got '{name}', which records CUDA graphs, on {device}; leave it out, or --device cuda")
    if reason := _refusal(name, head_dim, None, device, dtype):
        raise UsageError(
            f"attn: got '{name}', which cannot run on {device} in {str(dtype).removeprefix('torch.')} with "
            f"{head_dim} channels per head ({reason}); try --attn sdpa"
        )
    mask = torch.arange(8, device=device) >= torch.tensor([[0], [3]], device=device)  # (B, columns)
    return Attention(name, takes_masks=not _refusal(name, head_dim, mask[:, None, None], device, dtype))


def _refusal(name: str, head_dim: int, mask: Tensor | None, device: torch.device, dtype: torch.dtype) -> str:
    """Why a kernel does not run, in torch's words; empty if it does."""
    x = torch.zeros(2, 8, 4, head_dim, device=device, dtype=dtype).transpose(1, 2)  # the layout of a layer's
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            with Attention(name).only():
                F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        except RuntimeError as error:
            return " ".join([*(str(r.message).split(" (Triggered")[0] for r in reasons), str(error)])
    return ""
