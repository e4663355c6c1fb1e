"""Dream (arXiv 2508.15487): Dream-v0-Base and -Instruct, Dream-Coder, DiffuCoder, and what else has their config.json.

Qwen2 without the causal mask: grouped keys and values, biases of q, k and v. The logit of
a position predicts the token of the next one.
"""

from __future__ import annotations

from l2pd_bench.hosts.base import HostRequest
from l2pd_bench.hosts.checkpoint import Fields
from l2pd_bench.hosts.pretrained import Family, PretrainedHost, load_checkpoint, load_shape
from l2pd_bench.hosts.session import ShiftedSession
from l2pd_bench.hosts.tokens import Tokens
from l2pd_bench.hosts.transformer import TransformerConfig

LAYER = "model.layers.{i}."
NAMES = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attn_norm": LAYER + "input_layernorm",
    "q": LAYER + "self_attn.q_proj",
    "k": LAYER + "self_attn.k_proj",
    "v": LAYER + "self_attn.v_proj",
    "attn_out": LAYER + "self_attn.o_proj",
    "ffn_norm": LAYER + "post_attention_layernorm",
    "gate": LAYER + "mlp.gate_proj",
    "up": LAYER + "mlp.up_proj",
    "down": LAYER + "mlp.down_proj",
}
FIXED = {  # fields of config.json that could ask for another network; None: may be left out
    "hidden_act": ("silu",),
    "quantization_config": (None,),
    "rope_parameters": (None,),
    "rope_scaling": (None,),
    "tie_word_embeddings": (False, None),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}
QWEN_TOKENS = (
    151_665  # of Qwen2.5's tokenizer; Dream's has some of its own behind them, first <|beginoftext|> and <|mask|>
)
SHAPE_7B = {  # of Dream-org/Dream-v0-Instruct-7B and -Base-7B
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "mask_token_id": 151_666,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151_643,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "vocab_size": 152_064,
}


def shape(fields: Fields) -> TransformerConfig:
    """The network that a config.json describes; the size of its heads is hidden_size / num_attention_heads."""
    fields.require(FIXED)
    d_model, n_heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    fields.require({"head_dim": (None, d_model // n_heads)})
    return TransformerConfig(
        vocab_size=fields.whole("vocab_size"),
        d_model=d_model,
        n_layers=fields.whole("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=fields.whole("num_key_value_heads"),
        ffn_size=fields.whole("intermediate_size"),
        rope_theta=fields.number("rope_theta"),
        norm_eps=fields.number("rms_norm_eps"),
        qkv_bias=True,
    )


def special(fields: Fields, tokens: Tokens) -> tuple[int, int]:
    """MASK by config.json and tokenizer, which must agree; EoT is the tokenizer's padding, which follows an answer.

    In Dream that is its end of text, too; in DiffuCoder it is not, and config.json knows nothing of it.
    """
    is_told = fields.values.get("mask_token_id") is not None
    mask_id = fields.whole("mask_token_id", 0) if is_told else tokens.mask_id
    if mask_id is None:
        raise fields.wrong("mask_token_id", "the id of the mask token, as the tokenizer names none")
    if tokens.mask_id not in (None, mask_id):
        raise fields.wrong("mask_token_id", f"{tokens.mask_id}, the mask token of the tokenizer in {tokens.where}")
    return mask_id, tokens.pad_id if tokens.pad_id is not None else fields.whole("pad_token_id", 0)


FAMILY = Family(
    title="Dream",
    example="Dream-org/Dream-v0-Instruct-7B",
    names=NAMES,
    shape=shape,
    special=special,
    tokenizer="Qwen2Tokenizer",
    plain_bos=True,
    session=ShiftedSession,
    shared_ids=QWEN_TOKENS,
)


def load(request: HostRequest) -> PretrainedHost:
    """A Dream checkpoint, found by its config.json: --model FOLDER or --model Dream-org/Dream-v0-Instruct-7B."""
    return load_checkpoint(request, FAMILY)


def load_7b(request: HostRequest) -> PretrainedHost:
    """The shape of Dream-7B, for --weights random; dream-7b:layers=2 has fewer layers."""
    return load_shape(request, FAMILY, SHAPE_7B)
