"""Counter-based random numbers: a pure function of sample seed, place and step.

A sample's draws depend neither on its batch nor on its place in it, nor on how many
numbers were drawn before, and nothing is read on the host. The mixer is SplitMix64
(Steele, Lea and Flood, OOPSLA 2014) on wrapping int64 arithmetic.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def sample_seed(seed: int, doc_id: str) -> int:
    """The seed of one sample: from the run's seed and the item's id, 63 bits."""
    digest = hashlib.sha256(f"{seed}/{doc_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def mix(x: Tensor) -> Tensor:
    """SplitMix64's output for state `x` (int64, any shape)."""
    z = x + _GOLDEN
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _FIRST
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _SECOND
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def keys(seeds: Tensor, stream: int, offsets: Tensor, step: int | Tensor) -> Tensor:
    """One key per row and position, (B, N) int64.

    `seeds`: (B,) int64; `offsets`: (N,) or (B, N) int64, places in the generation region;
    `step`: of all rows, or (B,) int64; `stream` separates independent uses.
    """
    row = mix(mix(mix(seeds) + stream) + step)
    return mix(row[:, None] + offsets)


def uniform(key: Tensor) -> Tensor:
    """Uniform float32 in [0, 1), 24 bits, one per key."""
    return ((key >> 40) & 0xFFFFFF).float() / (1 << 24)


def gumbel(key: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise, float32, shape of `key` plus (vocab_size,)."""
    draws = mix(key[..., None] + torch.arange(vocab_size, device=key.device))
    u = (((draws >> 41) & 0x7FFFFF).float() + 0.5) / (1 << 23)  # 23 bits, so that the half is exact: 0 < u < 1
    return -torch.log(-torch.log(u))
