"""The slow twin of `session.py`, for `--no-fast`: every forward as a textbook writes it.

One row after the other, without padding; q, k, v, gate and up each by a product of its
own; attention by a softmax that is written out; logits of every fed column; keys and
values put together by concatenation. It shares the weights with the fast one and nothing
else, so that one can be judged by the other. It knows nothing of why it is slow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.transformer import Layer, Transformer

NAME = "plain"  # as the protocol records how attention was computed


class PlainSession:
    """See `Session`. `shifted`: every token is predicted from its left neighbour (Dream)."""

    def __init__(
        self, model: Transformer, padding: Sequence[int], length: int, *, cached: bool, shifted: bool = False
    ) -> None:
        self.model, self.padding = model, list(padding)
        self.cached, self.shifted = cached, shifted
        self.kept: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by slot: of each layer (T, K, head_dim) twice
        self.left: dict[int, Tensor] = {}  # by slot: the logits (1, V) of the column before the block

    def forward(
        self,
        ids: Tensor,
        starts: Sequence[int],
        blocks: Sequence[slice],
        *,
        rows: Sequence[int],
        lengths: Sequence[int],
        slot: int = 0,
    ) -> Tensor:
        """See `Session.forward`."""
        found = []
        for i, (row, first, part, end) in enumerate(zip(rows, starts, blocks, lengths, strict=True)):
            pad = self.padding[row]
            skip = max(pad - first, 0)
            fed = ids[i, skip : end - first]  # without columns that are not the row's
            logits = self._row(fed, first + skip - pad, end - pad, slot + i)  # (N, V)
            at = part.start - first - skip
            if self.shifted:
                if part.start <= pad:
                    raise UsageError("model: predicts every token from the one before it, got an empty prompt")
                if at == 0:
                    logits = torch.cat([self.left[slot + i], logits[:-1]])
                else:
                    at, self.left[slot + i] = at - 1, logits[at - 1 : at]
            rows_of_block = logits[at : at + part.stop - part.start]
            missing = part.stop - part.start - len(rows_of_block)
            found.append(F.pad(rows_of_block, (0, 0, 0, missing)))
        return torch.stack(found)

    def move(self, source: int, target: int) -> None:
        """See `Session.move`."""
        self.kept[target] = self.kept[source]
        if self.shifted:
            self.left[target] = self.left[source]

    def _row(self, ids: Tensor, at: int, length: int, slot: int) -> Tensor:
        """Logits (N, V) of one row's tokens (N,) int64 at positions from `at` on, of `length` positions in all."""
        config = self.model.config
        x: Tensor = self.model.embed.weight[ids]  # (N, d)
        before = self.kept.get(slot, [])
        now = []
        layers: list[Layer] = list(self.model.layers)  # type: ignore[arg-type]  # they are
        for number, layer in enumerate(layers):
            y = _norm(x, layer.attn_norm.weight, config.norm_eps)
            sizes = [config.d_model, config.kv_size, config.kv_size]
            weights = layer.qkv.weight.split(sizes)
            biases = layer.qkv.bias.split(sizes) if config.qkv_bias else [None] * 3
            q, k, v = (
                F.linear(y, w, b).view(len(y), -1, config.head_dim) for w, b in zip(weights, biases, strict=True)
            )
            q, k = (self._rotate(part, at) for part in (q, k))
            if before and len(ids) < length:
                old_k, old_v = before[number]
                stop = at + len(ids)
                k = torch.cat([old_k[:at], k, old_k[stop:length]])
                v = torch.cat([old_v[:at], v, old_v[stop:length]])
            now.append((k, v))
            group = config.n_heads // config.kv_heads
            keys, values = (part.repeat_interleave(group, 1).transpose(0, 1) for part in (k, v))  # (H, T, head_dim)
            scores = q.transpose(0, 1) @ keys.transpose(1, 2) / config.head_dim**0.5  # (H, N, T)
            mixed = (scores.float().softmax(-1).to(x.dtype) @ values).transpose(0, 1).reshape(len(y), -1)
            x = x + F.linear(mixed, layer.attn_out.weight)
            y = _norm(x, layer.ffn_norm.weight, config.norm_eps)
            gate, up = (F.linear(y, w) for w in layer.gate_up.weight.split(config.ffn_size))
            x = x + F.linear(F.silu(gate) * up, layer.down.weight)
        if self.cached:
            self.kept[slot] = now
        return F.linear(_norm(x, self.model.norm.weight, config.norm_eps), self.model.head.weight)

    def _rotate(self, x: Tensor, at: int) -> Tensor:
        """Rotary positions, half-split: x (N, heads, head_dim) at positions from `at` on."""
        config = self.model.config
        half = config.head_dim // 2
        positions = torch.arange(at, at + len(x), device=x.device, dtype=torch.float32)
        rates = config.rope_theta ** -(torch.arange(half, device=x.device, dtype=torch.float32) * 2 / config.head_dim)
        angles = positions[:, None] * rates  # (N, half)
        cos, sin = (part.to(self.model.rope_dtype)[:, None] for part in (angles.cos(), angles.sin()))
        a, b = x[..., :half].to(cos.dtype), x[..., half:].to(cos.dtype)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the channels, in float32."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight
