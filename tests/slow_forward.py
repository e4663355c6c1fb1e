"""A forward that shares nothing with the program but the weights.

Its own RMSNorm, rotary positions and attention, one row, one head at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l2pd_bench.hosts.transformer import Transformer

KeysValues = list[tuple[Tensor, Tensor]]  # per layer: keys (L, H, D) after rotation, values (L, H, D)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root of the mean square."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x: Tensor, columns: range, theta: float) -> Tensor:
    """Turn each pair (i, i + D / 2) of x (N, H, D) by its column times theta^(-2i / D)."""
    half = x.shape[-1] // 2
    result = torch.empty_like(x)
    frequency = theta ** -(torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half))
    for n, column in enumerate(columns):
        angle = column * frequency  # float32, as every implementation of rotary positions has it
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[n, :, :half], x[n, :, half:]
        result[n, :, :half], result[n, :, half:] = a * cos - b * sin, b * cos + a * sin
    return result


def slow_forward(
    model: Transformer, canvas: list[int], window: range, frozen: KeysValues | None
) -> tuple[Tensor, KeysValues]:
    """Logits (len(window), V) and the window's own keys and values; all other columns keep `frozen`."""
    config, weights = model.config, dict(model.named_parameters())
    x = weights["embed.weight"][[canvas[c] for c in window]]
    fresh: KeysValues = []
    for i in range(config.n_layers):
        attn_norm, qkv, attn_out, ffn_norm, gate_up, down = (
            weights[f"layers.{i}.{name}.weight"]
            for name in ("attn_norm", "qkv", "attn_out", "ffn_norm", "gate_up", "down")
        )
        projected = rms_norm(x, attn_norm, config.norm_eps) @ qkv.T
        q, k, v = (part.reshape(len(window), config.n_heads, config.head_dim) for part in projected.chunk(3, -1))
        q, k = rotate(q, window, config.rope_theta), rotate(k, window, config.rope_theta)
        fresh.append((k, v))
        if frozen is not None:
            before, after = slice(0, window.start), slice(window.stop, len(canvas))
            k = torch.cat([frozen[i][0][before], k, frozen[i][0][after]])
            v = torch.cat([frozen[i][1][before], v, frozen[i][1][after]])
        assert len(k) == len(canvas)
        heads = []
        for h in range(config.n_heads):
            shares = (q[:, h] @ k[:, h].T / math.sqrt(config.head_dim)).softmax(-1)
            heads.append(shares @ v[:, h])
        x = x + torch.cat(heads, -1) @ attn_out.T
        gate, up = (rms_norm(x, ffn_norm, config.norm_eps) @ gate_up.T).chunk(2, -1)
        x = x + (gate * gate.sigmoid() * up) @ down.T
    return rms_norm(x, weights["norm.weight"], config.norm_eps) @ weights["head.weight"].T, fresh
