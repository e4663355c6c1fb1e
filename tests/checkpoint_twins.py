"""What a checkpoint computes, without the program: transformers' own networks, and a slow forward in float64.

Both are made of the tensors as they were written, under their original names.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from checkpoint_factory import FFN, HEAD, HEADS, KV, LAYERS, VOCAB, D, Written, vocabulary
from slow_forward import KeysValues, rms_norm, rotate
from torch import Tensor

PARTS = {  # of a layer: what it is called in LLaDA, and in Llama, Qwen2 and Dream
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def in_llamas_words(written: Written) -> dict[str, Tensor]:
    """The tensors under the names that transformers' Llama and Qwen2 have for them."""
    if written.kind == "dream":
        return written.tensors
    outer = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
    found = {}
    for name, tensor in written.tensors.items():
        parts = name.split(".")
        if parts[2] == "blocks":
            found[f"model.layers.{parts[3]}.{PARTS[parts[4]]}.weight"] = tensor
        else:
            found[f"{outer[parts[2]]}.weight"] = tensor
    return found


def twin(written: Written) -> Any:
    """The checkpoint in transformers' own Llama or Qwen2."""
    import transformers

    fields = written.fields
    if written.kind == "llada":
        sizes = {"num_key_value_heads": fields["n_kv_heads"], "rms_norm_eps": fields["rms_norm_eps"]}
        make: Any = (transformers.LlamaConfig, transformers.LlamaForCausalLM)
    else:
        sizes = {"num_key_value_heads": KV, "rms_norm_eps": fields["rms_norm_eps"]}
        make = (transformers.Qwen2Config, transformers.Qwen2ForCausalLM)
    network = make[1](
        make[0](
            vocab_size=VOCAB,
            hidden_size=D,
            intermediate_size=FFN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            rope_parameters={"rope_type": "default", "rope_theta": fields["rope_theta"]},
            tie_word_embeddings=False,
            attn_implementation="eager",
            **sizes,
        )
    )
    network.load_state_dict(in_llamas_words(written))
    return network.eval()


def random_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    """Arbitrary ids, special ones among them."""
    return torch.randint(len(vocabulary()[0]) + 5, (rows, length), generator=torch.Generator().manual_seed(seed))


def differ(got: Tensor, wanted: Tensor) -> float:
    """The largest difference of two float32 results, as a share of the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())


def twin_logits(network: Any, ids: Tensor, padding: list[int]) -> Tensor:
    """Its logits with every real column attended to, and positions from each row's first real column."""
    pad, columns = torch.tensor(padding)[:, None], torch.arange(ids.shape[1])[None]
    blocked = (columns < pad)[:, None, None].expand(-1, 1, ids.shape[1], -1)
    mask = torch.zeros(blocked.shape).masked_fill(blocked, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        output = network(input_ids=ids, attention_mask=mask, position_ids=(columns - pad).clamp(min=0), use_cache=False)
    logits: Tensor = output.logits
    return logits


def slow_forward(
    written: Written, canvas: list[int], window: range, frozen: KeysValues | None
) -> tuple[Tensor, KeysValues]:
    """Float64 logits (len(window), V) and the window's keys and values; all other columns keep `frozen`.

    One row, one head at a time, on the original tensors.
    """
    weights = {name: tensor.double() for name, tensor in in_llamas_words(written).items()}
    eps, theta = written.fields["rms_norm_eps"], written.fields["rope_theta"]
    x = weights["model.embed_tokens.weight"][[canvas[c] for c in window]]
    fresh: KeysValues = []
    for i in range(LAYERS):
        layer = {name.removeprefix(f"model.layers.{i}."): w for name, w in weights.items() if f".layers.{i}." in name}
        h = rms_norm(x, layer["input_layernorm.weight"], eps)
        q, k, v = (
            (h @ layer[f"self_attn.{name}.weight"].T + layer.get(f"self_attn.{name}.bias", 0)).view(
                len(window), -1, HEAD
            )
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, window, theta), rotate(k, window, theta)
        fresh.append((k, v))
        if frozen is not None:
            before, after = slice(0, window.start), slice(window.stop, len(canvas))
            k = torch.cat([frozen[i][0][before], k, frozen[i][0][after]])
            v = torch.cat([frozen[i][1][before], v, frozen[i][1][after]])
        assert len(k) == len(canvas)
        heads = []
        for head in range(HEADS):
            shared = head * k.shape[1] // HEADS
            heads.append((q[:, head] @ k[:, shared].T / math.sqrt(HEAD)).softmax(-1) @ v[:, shared])
        x = x + torch.cat(heads, -1) @ layer["self_attn.o_proj.weight"].T
        h = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        gate, up = h @ layer["mlp.gate_proj.weight"].T, h @ layer["mlp.up_proj.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ layer["mlp.down_proj.weight"].T
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T, fresh


def slow_decode(
    written: Written, prompt: list[int], mask_id: int, cache: str, gen: int, block: int, tau: float | None
) -> list[int]:
    """One token a step, or all at least `tau` sure, by the slow forward; Dream's predictions are shifted.

    The row that predicts a block's first token is frozen with the keys and values, where the window leaves it out.
    """
    shift = 1 if written.kind == "dream" else 0
    canvas = [*prompt, *[mask_id] * gen]
    for start in range(len(prompt), len(canvas), block):
        places, step, frozen = range(start, start + block), 0, None
        left = torch.empty(0)
        while any(canvas[c] == mask_id for c in places):
            is_full = cache == "none" or step == 0
            window = range(len(canvas)) if is_full else range(start, len(canvas) if cache == "prefix" else places.stop)
            logits, fresh = slow_forward(written, canvas, window, None if is_full else frozen)
            if is_full:
                frozen, left = fresh, logits[start - 1 : start]
                rows = logits[start - shift : places.stop - shift]
            else:
                rows = torch.cat([left, logits])[1 - shift :][:block]
            rows = rows.clone().float()
            rows[:, mask_id] = -math.inf
            tokens, sure = rows.argmax(-1).tolist(), (rows.amax(-1) - rows.logsumexp(-1)).exp().tolist()
            masked = [i for i, c in enumerate(places) if canvas[c] == mask_id]
            best = min(masked, key=lambda i: (-sure[i], i))
            for i in masked:
                if i == best or (tau is not None and sure[i] >= tau):
                    canvas[start + i] = tokens[i]
            step += 1
    return canvas[len(prompt) :]
