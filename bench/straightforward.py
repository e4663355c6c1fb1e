"""A plain decode loop in the manner of the published Fast-dLLM code (arXiv 2505.22618), to be measured against.

It does what that code does at every step, on the weights of any of our transformers of
LLaDA's kind (logits not shifted, no biases): logits of the whole vocabulary for all that
was fed, a softmax of all of them in float64, a second argmax that nobody reads, a Python
loop over the masked tokens that reads one confidence at a time; keys cached before
rotation, joined and rotated anew in float32 in every layer, with tables built anew; a
causal bias that is built, checked, and left unused; projections that are not fused. It
differs in three places, none of which makes it slower: MASK is never predicted, so that
its tokens are the harness's; a block that its first forward has finished gets no second
one; torch's attention is called as it is, not compiled. It shares nothing with the engine
but weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2pd_bench.hosts.transformer import Layer, Transformer

KeysValues = list[tuple[Tensor, Tensor]]  # per layer (1, K, columns, head_dim), keys before rotation


@dataclass(frozen=True)
class Plain:
    """What one prompt came to."""

    output_ids: list[int]  # the whole generation region
    nfe: int


@torch.inference_mode()
def decode_plainly(
    model: Transformer,
    prompt: list[int],
    *,
    mask_id: int,
    gen_length: int,
    block_length: int,
    cache: str,
    threshold: float | None,
) -> Plain:
    """Fill `gen_length` masks behind one prompt: one token per step, or with a `threshold` all that reach it.

    `cache`: none, prefix or dual.
    """
    device = model.embed.weight.device
    x = torch.full((1, len(prompt) + gen_length), mask_id, dtype=torch.int64, device=device)
    x[:, : len(prompt)] = torch.tensor(prompt, device=device)
    nfe = 0
    for start in range(len(prompt), x.shape[1], block_length):
        end = start + block_length
        replaced = torch.zeros(x.shape, dtype=torch.bool, device=device)
        replaced[:, start:end] = True
        # the block's first forward feeds everything, and decodes its first step
        logits, fresh = _forward(model, x, None, None)
        nfe += 1
        _fill(x, logits, 0, end, mask_id, threshold)
        kept = [(k[:, :, :start], v[:, :, :start]) for k, v in fresh] if cache == "prefix" else fresh
        while (x[:, start:end] == mask_id).sum() != 0:
            if cache == "none":
                logits, _ = _forward(model, x, None, None)
                _fill(x, logits, 0, end, mask_id, threshold)
            elif cache == "prefix":
                logits, _ = _forward(model, x[:, start:], kept, None)
                logits.argmax(-1)  # the argmax that nobody reads
                _fill(x, logits, start, end, mask_id, threshold)
            else:
                logits, kept = _forward(model, x[:, start:end], kept, replaced)
                _fill(x, logits, start, end, mask_id, threshold)
            nfe += 1
    return Plain(x[0, len(prompt) :].tolist(), nfe)


def _fill(x: Tensor, logits: Tensor, start: int, end: int, mask_id: int, threshold: float | None) -> None:
    """Commit in place; `logits` (1, N, V) are those of columns [start, start + N), only those before `end` count."""
    logits[..., mask_id] = -torch.inf
    ids = x[:, start : start + logits.shape[1]]
    masked = ids == mask_id
    masked[:, end - start :] = False
    picks = logits.argmax(-1)
    p = F.softmax(logits.to(torch.float64), dim=-1)
    p_of_pick = p.gather(-1, picks.unsqueeze(-1)).squeeze(-1)
    picks = torch.where(masked, picks, ids)
    confidence = torch.where(masked, p_of_pick, -torch.inf)
    quota = masked.sum(dim=1) if threshold is not None else torch.ones(1, dtype=torch.int64, device=x.device)
    chosen = torch.zeros_like(masked)
    for row in range(len(ids)):
        _, order = torch.topk(confidence[row], k=int(quota[row]))
        chosen[row, order] = True
        if threshold is not None:
            for place in range(1, int(quota[row])):
                if confidence[row, order[place]] < threshold:
                    chosen[row, order[place]] = False
    ids[chosen] = picks[chosen]


def _forward(
    model: Transformer, ids: Tensor, past: KeysValues | None, replaced: Tensor | None
) -> tuple[Tensor, KeysValues]:
    """Logits (1, N, V) of all that is fed, and what every layer has cached now.

    Without `replaced` (1, L) bool, the fed columns follow those of `past`; with it, they take
    the places where it is true.
    """
    x = model.embed(ids)
    bias = None
    if past is not None:
        columns = past[0][0].shape[2] + ids.shape[1]
        bias = torch.triu(torch.full((columns, columns), -torch.inf, device=ids.device), diagonal=1)[None, None]
    present: KeysValues = []
    for i, layer in enumerate(model.layers):
        x, cached = _layer(layer, x, None if past is None else past[i], replaced, bias)  # type: ignore[arg-type]
        present.append(cached)
    logits: Tensor = model.head(_norm(x, model.norm.weight, model.config.norm_eps))
    return logits, present


def _layer(
    layer: Layer, x: Tensor, past: tuple[Tensor, Tensor] | None, replaced: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    config = layer.config
    sizes = [config.d_model, config.kv_size, config.kv_size]
    h = _norm(x, layer.attn_norm.weight, config.norm_eps)
    q, k, v = (F.linear(h, weight) for weight in layer.qkv.weight.split(sizes))
    q, k, v = (part.unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for part in (q, k, v))
    if past is not None and replaced is None:
        k, v = torch.cat([past[0], k], dim=-2), torch.cat([past[1], v], dim=-2)
    if past is not None and replaced is not None:
        places = replaced.nonzero()[:, 1]
        past[0][:, :, places], past[1][:, :, places] = k, v
        k, v = past
    cached = (k, v)
    last = k.shape[2] if replaced is None else int(replaced.nonzero()[:, 1].max()) + 1
    q, k = _rotate(q, last - q.shape[2], config.rope_theta), _rotate(k, 0, config.rope_theta)
    if bias is not None:
        _finite(bias[:, :, last - q.shape[2] : last, : k.shape[2]].to(x.dtype))  # which attention is not given
    if config.kv_heads < config.n_heads:
        k, v = (part.repeat_interleave(config.n_heads // config.kv_heads, 1) for part in (k, v))
    mixed = F.scaled_dot_product_attention(q, k, v)
    x = x + layer.attn_out(mixed.transpose(1, 2).flatten(2))
    h = _norm(x, layer.ffn_norm.weight, config.norm_eps)
    gate, up = (F.linear(h, weight) for weight in layer.gate_up.weight.split(config.ffn_size))
    return x + layer.down(F.silu(gate) * up), cached


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _rotate(x: Tensor, first: int, theta: float) -> Tensor:
    """Rotary positions of columns [first, first + N) of x (1, H, N, head_dim), in float32."""
    dim = x.shape[-1]
    frequency = 1.0 / theta ** (torch.arange(0, dim, 2, device=x.device, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(first, first + x.shape[2], device=x.device).float(), frequency)
    angle = torch.cat([angle, angle], -1)
    wide = x.float()
    low, high = wide.chunk(2, -1)
    return (wide * angle.cos() + torch.cat([-high, low], -1) * angle.sin()).to(x.dtype)


def _finite(bias: Tensor) -> None:
    """Replace infinities, if there are any, by the largest finite numbers."""
    if bool((bias == -torch.inf).any()):
        bias.masked_fill_(bias == -torch.inf, torch.finfo(bias.dtype).min)
    if bool((bias == torch.inf).any()):
        bias.masked_fill_(bias == torch.inf, torch.finfo(bias.dtype).max)
