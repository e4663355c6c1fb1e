"""LLaDA (arXiv 2502.09992): LLaDA-8B-Base and -Instruct, LLaDA-1.5, and what else has their config.json.

Llama without the causal mask, its tensors named as in OLMo. The logit of a position
predicts that position's token.
"""

from __future__ import annotations

from l2pd_bench.hosts.base import HostRequest
from l2pd_bench.hosts.checkpoint import Fields
from l2pd_bench.hosts.pretrained import Family, PretrainedHost, load_checkpoint, load_shape
from l2pd_bench.hosts.tokens import Tokens
from l2pd_bench.hosts.transformer import TransformerConfig

LAYER = "model.transformer.blocks.{i}."
NAMES = {
    "embed": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
    "attn_norm": LAYER + "attn_norm",
    "q": LAYER + "q_proj",
    "k": LAYER + "k_proj",
    "v": LAYER + "v_proj",
    "attn_out": LAYER + "attn_out",
    "ffn_norm": LAYER + "ff_norm",
    "gate": LAYER + "ff_proj",
    "up": LAYER + "up_proj",
    "down": LAYER + "ff_out",
}
FIXED = {  # fields of config.json that could ask for another network; None: may be left out
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1,),
    "block_type": ("llama",),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (False, None),
    "quantization_config": (None,),
    "rope": (True,),
    "rope_scaling": (None,),
    "scale_logits": (False,),
    "weight_tying": (False,),
}
SHAPE_8B = {  # of GSAI-ML/LLaDA-8B-Instruct, -Base and LLaDA-1.5
    **{name: values[0] for name, values in FIXED.items()},
    "d_model": 4096,
    "embedding_size": 126_464,
    "eos_token_id": 126_081,
    "mask_token_id": 126_336,
    "mlp_hidden_size": 12_288,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "rms_norm_eps": 1e-5,
    "rope_full_precision": True,
    "rope_theta": 500_000.0,
    "vocab_size": 126_464,
}


def shape(fields: Fields) -> TransformerConfig:
    """The network that a config.json describes; the size of its heads is d_model / n_heads."""
    fields.require(FIXED)
    vocab_size = fields.whole("vocab_size")
    fields.require({"embedding_size": (vocab_size,)})
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=fields.whole("d_model"),
        n_layers=fields.whole("n_layers"),
        n_heads=fields.whole("n_heads"),
        n_kv_heads=fields.whole("n_kv_heads"),
        ffn_size=fields.whole("mlp_hidden_size"),
        rope_theta=fields.number("rope_theta"),
        norm_eps=fields.number("rms_norm_eps"),
        rope_full_precision=fields.flag("rope_full_precision"),
    )


def special(fields: Fields, tokens: Tokens) -> tuple[int, int]:
    """MASK and EoT by config.json, as the tokenizer does not name the former; after an answer comes EoT only."""
    return fields.whole("mask_token_id", 0), fields.whole("eos_token_id", 0)


FAMILY = Family(
    title="LLaDA",
    example="GSAI-ML/LLaDA-8B-Instruct",
    names=NAMES,
    shape=shape,
    special=special,
    tokenizer="PreTrainedTokenizerFast",
    plain_bos=False,
)


def load(request: HostRequest) -> PretrainedHost:
    """A LLaDA checkpoint, found by its config.json: --model FOLDER or --model GSAI-ML/LLaDA-8B-Instruct."""
    return load_checkpoint(request, FAMILY)


def load_8b(request: HostRequest) -> PretrainedHost:
    """The shape of LLaDA-8B, for --weights random; llada-8b:layers=2 has fewer layers."""
    return load_shape(request, FAMILY, SHAPE_8B)
