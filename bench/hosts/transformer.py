"""A lean Llama-shaped transformer: the forward that every host with weights is made of.

Pre-norm blocks, RMSNorm, rotary positions (half-split), SwiGLU, untied head, as in
LLaDA (arXiv 2502.09992); with grouped keys and values and biases of q, k and v, as in
Dream (arXiv 2508.15487), which is Qwen2. Attention is bidirectional, or causal for an
autoregressive scorer. It knows nothing of canvases, blocks or masks: it is given ids,
where they stand, and which columns may be attended to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the network. `vocab_size` rows of embedding and head, `causal` for a scorer.

    Every `n_heads / n_kv_heads` heads share their keys and values (None: each has its
    own). `rope_full_precision`: rotate in float32 whatever the dtype of the activations,
    instead of rounding cosines and sines to it.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    ffn_size: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    causal: bool = False
    n_kv_heads: int | None = None
    qkv_bias: bool = False
    rope_full_precision: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a shape that is none."""
        if min(self.vocab_size, self.d_model, self.n_layers, self.n_heads, self.kv_heads, self.ffn_size) < 1:
            raise ValueError("every size must be at least 1")
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model {self.d_model} is not an even number of channels for each of {self.n_heads} heads"
            )
        if self.n_heads % self.kv_heads or (self.causal and self.n_heads != self.kv_heads):
            raise ValueError(
                f"{self.n_heads} heads cannot share {self.kv_heads} keys and values (causal: {self.causal})"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def kv_size(self) -> int:
        """Channels of the keys of one row, and of its values."""
        return self.kv_heads * self.head_dim

    def flops(self, queries: int, keys: int, logits: int) -> int:
        """Multiply-adds times two of one forward: `queries` rows fed, `keys` attended, `logits` rows out."""
        d, f = self.d_model, self.ffn_size
        per_row = 2 * d * (2 * d + 2 * self.kv_size + 3 * f) + 4 * keys * d
        return self.n_layers * queries * per_row + 2 * logits * d * self.vocab_size


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for `positions` (...,) -> two float32 tensors (..., head_dim).

    The minus sign of the rotation's first half is folded into the sine, so that
    `rotate(x) = x * cos + swap_halves(x) * sin`.
    """
    half = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angle = positions.unsqueeze(-1).float() * theta**-half
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


class Layer(nn.Module):
    """One pre-norm block, with the three projections of attention and the two of the gate fused."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d, f = config.d_model, config.ffn_size
        self.config = config
        self.attn_norm = nn.RMSNorm(d, eps=config.norm_eps)
        self.qkv = nn.Linear(d, d + 2 * config.kv_size, bias=config.qkv_bias)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.ffn_norm = nn.RMSNorm(d, eps=config.norm_eps)
        self.gate_up = nn.Linear(d, 2 * f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Tensor | None,
        store: Tensor | None,
        at: int | Tensor,
        keys: int | None,
    ) -> Tensor:
        """Rows `x` (B, N, d) standing in the columns from `at` on, or in the columns `at` (B, N) int64.

        `cos`, `sin`: (B or 1, N, 1, head_dim). `attend`: bool, broadcast to (B, H, N, columns) and, but
        for a causal network, the same for every row; or None for all (of a causal network: all
        up to the row's own, which needs rows from column 0).
        `store`: this layer's keys and values (2, B, columns, K, head_dim); the rows' own are
        written into it (keys after rotation) and its first `keys` columns are attended to. Without
        a store, the rows attend to themselves only. H heads, K of keys and values.
        """
        batch, rows, _ = x.shape
        heads, shared, head_dim = self.config.n_heads, self.config.kv_heads, self.config.head_dim
        qkv = self.qkv(self.attn_norm(x)).view(batch, rows, heads + 2 * shared, head_dim)
        qk = qkv[:, :, : heads + shared]
        swapped = torch.cat([qk[..., head_dim // 2 :], qk[..., : head_dim // 2]], -1)
        qk = torch.addcmul(qk * cos, swapped, sin).to(x.dtype)  # (B, N, H + K, head_dim)
        q, k, v = qk[:, :, :heads], qk[:, :, heads:], qkv[:, :, heads + shared :]
        if store is not None:
            if isinstance(at, int):
                store[0, :, at : at + rows], store[1, :, at : at + rows] = k, v
            else:
                row = torch.arange(batch, device=x.device)[:, None]
                store[0, row, at], store[1, row, at] = k, v
            k, v = store[0, :, :keys], store[1, :, :keys]
        is_causal = self.config.causal and attend is None
        # Heads that share keys become rows of one head, as every row sees the same columns: no kernel copies keys.
        q = q.transpose(1, 2) if shared == heads else q.unflatten(2, (shared, -1)).transpose(1, 2).flatten(2, 3)
        mixed = F.scaled_dot_product_attention(
            q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=attend, is_causal=is_causal
        )  # (B, K, N * H / K, head_dim)
        if shared < heads:
            mixed = mixed.view(batch, shared, rows, -1, head_dim)
        mixed = mixed.transpose(1, 2).reshape(batch, rows, -1)
        x = x + self.attn_out(mixed)
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


class Transformer(nn.Module):
    """Embedding, layers, final norm; `head` turns hidden rows into logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        # Zeros, for whoever fills the network: to draw numbers on the meta device, torch imports its compiler (1.7 s).
        zeros = torch.zeros(config.vocab_size, config.d_model)
        self.embed: nn.Embedding = nn.Embedding.from_pretrained(zeros, freeze=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def hidden(
        self,
        ids: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Tensor | None = None,
        store: Tensor | None = None,
        at: int | Tensor = 0,
        keys: int | None = None,
    ) -> Tensor:
        """Hidden rows (B, N, d) of `ids` (B, N), before the final norm; arguments as in `Layer.forward`.

        `store`, if given, is (n_layers, 2, B, columns, K, head_dim); `cos` and `sin` are in `rope_dtype`.
        """
        x: Tensor = self.embed(ids)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, attend, None if store is None else store[i], at, keys)
        return x

    @property
    def rope_dtype(self) -> torch.dtype:
        """What to rotate in: see `TransformerConfig.rope_full_precision`."""
        dtype = self.embed.weight.dtype
        return torch.promote_types(dtype, torch.float32) if self.config.rope_full_precision else dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of whole sequences `ids` (B, T): no padding, no cache. Used by training."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        table = rotary_table(positions, self.config.head_dim, self.config.rope_theta)
        cos, sin = (part.to(self.rope_dtype) for part in table)
        logits: Tensor = self.head(self.norm(self.hidden(ids, cos[None, :, None], sin[None, :, None])))
        return logits
