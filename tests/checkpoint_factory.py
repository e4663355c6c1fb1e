"""Small random checkpoints on disk, as LLaDA and Dream have them.

Nothing here is the program's: names, shapes and files are written down once more.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from l2pd_bench.hosts.pretrained import PretrainedHost
from l2pd_bench.registry import load_host

D, HEADS, KV, FFN, LAYERS, VOCAB = 32, 4, 2, 48, 3, 352
HEAD = D // HEADS
ABSENT = "absent"
TEXT = (
    "The quick brown fox jumps over the lazy dog.\n\n",
    "def double(x):\n    return 2 * x\n",
    "Question: what is 3 times 4?\nAnswer: 12\n",
)
SPECIAL = {
    "llada": ["<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|start_header_id|>", "<|end_header_id|>"],
    "dream": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"],
}
SPECIAL["llada"] += ["<|eot_id|>", "<|mdm_mask|>"]
# LLaDA's writes the first token itself, and the assistant's header whether it is asked to or not.
LLADA_TEMPLATE = (
    "{% for message in messages %}{% set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{{ bos_token }}{% endif %}{{ text }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
DREAM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@functools.cache
def vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """Tokens and merges of a byte-level BPE trained on a few lines."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(TEXT, trainer)
    trained = json.loads(raw.to_str())["model"]
    return trained["vocab"], trained["merges"]


def special_ids(kind: str) -> dict[str, int]:
    """Id of each special token: they stand behind the others."""
    return {token: len(vocabulary()[0]) + i for i, token in enumerate(SPECIAL[kind])}


def config(kind: str, **changes: Any) -> dict[str, Any]:
    """A config.json with every field of the original, at small sizes; ABSENT takes a field out."""
    ids = special_ids(kind)
    if kind == "llada":
        fields = {
            **{"activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"]},
            **{"attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True},
            **{"auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"}, "bias_for_layer_norm": False},
            **{"block_group_size": 1, "block_type": "llama", "d_model": D, "embedding_dropout": 0.0},
            **{"embedding_size": VOCAB, "eos_token_id": ids["<|endoftext|>"], "flash_attention": False},
            **{"include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta"},
            **{"init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms"},
            **{"layer_norm_with_affine": True, "mask_token_id": ids["<|mdm_mask|>"], "max_sequence_length": 4096},
            **{"mlp_hidden_size": FFN, "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None},
            **{"n_heads": HEADS, "n_kv_heads": HEADS, "n_layers": LAYERS, "pad_token_id": ids["<|endoftext|>"]},
            **{"precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-5, "rope": True},
            **{"rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False},
            **{"transformers_version": "4.46.3", "use_cache": False, "vocab_size": VOCAB, "weight_tying": False},
        }
    else:
        fields = {
            **{"architectures": ["DreamModel"], "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"]},
            **{"auto_map": {"AutoModel": "modeling_dream.DreamModel"}, "eos_token_id": ids["<|endoftext|>"]},
            **{"hidden_act": "silu", "hidden_size": D, "initializer_range": 0.02, "intermediate_size": FFN},
            **{"mask_token_id": ids["<|mask|>"], "max_position_embeddings": 131072, "max_window_layers": LAYERS},
            **{"model_type": "Dream", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS},
            **{"num_key_value_heads": KV, "pad_token_id": ids["<|endoftext|>"], "rms_norm_eps": 1e-6},
            **{"rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False},
            **{"torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": True, "use_mrope": False},
            **{"use_sliding_window": False, "vocab_size": VOCAB},
        }
    return {name: value for name, value in {**fields, **changes}.items() if value != ABSENT}


def shapes(kind: str, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint."""
    if kind == "llada":
        kv = fields["n_kv_heads"] * HEAD
        found = {f"model.transformer.{name}.weight": (VOCAB, D) for name in ("wte", "ff_out")}
        found["model.transformer.ln_f.weight"] = (D,)
        for i in range(LAYERS):
            at = f"model.transformer.blocks.{i}"
            found |= {f"{at}.{name}.weight": (D,) for name in ("attn_norm", "ff_norm")}
            found |= {
                f"{at}.{name}.weight": (rows, D) for name, rows in (("q_proj", D), ("k_proj", kv), ("v_proj", kv))
            }
            found |= {f"{at}.{name}.weight": (FFN, D) for name in ("ff_proj", "up_proj")}
            found |= {f"{at}.attn_out.weight": (D, D), f"{at}.ff_out.weight": (D, FFN)}
        return found
    kv = fields["num_key_value_heads"] * HEAD
    found = {"model.embed_tokens.weight": (VOCAB, D), "lm_head.weight": (VOCAB, D), "model.norm.weight": (D,)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        found |= {f"{at}.{name}.weight": (D,) for name in ("input_layernorm", "post_attention_layernorm")}
        for name, rows in (("q_proj", D), ("k_proj", kv), ("v_proj", kv)):
            found |= {f"{at}.self_attn.{name}.weight": (rows, D), f"{at}.self_attn.{name}.bias": (rows,)}
        found |= {f"{at}.mlp.{name}.weight": (FFN, D) for name in ("gate_proj", "up_proj")}
        found |= {f"{at}.self_attn.o_proj.weight": (D, D), f"{at}.mlp.down_proj.weight": (D, FFN)}
    return found


def random_tensors(kind: str, fields: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Float32 weights such that logits are of about 1, and every part matters."""
    draws = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes(kind, fields).items():
        noise = torch.randn(shape, generator=draws)
        if name.endswith("bias"):
            found[name] = noise / 2
        else:
            found[name] = 1 + noise / 4 if len(shape) == 1 else noise * (1.5 / shape[1] ** 0.5)
    return found


@dataclass(frozen=True)
class Written:
    """A checkpoint on disk, and what was written there."""

    kind: str
    folder: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]


def write(folder: Path, kind: str, *, shards: int = 3, dtype: torch.dtype = torch.float32, **changes: Any) -> Written:
    """A checkpoint of that kind; `changes` are to its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = config(kind, **changes)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / f"modeling_{kind}.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors(kind, fields).items()}
    write_weights(folder, tensors, shards)
    write_tokenizer(folder, kind)
    return Written(kind, folder, fields, tensors)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shards: int) -> None:
    """One file, or several among which the layers are mixed, and their index."""
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    where = {name: files[i % shards] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name in where if where[name] == file}, folder / file, {"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path, kind: str) -> None:
    """LLaDA's is one tokenizer.json; Dream's has code of its own beside vocab.json and merges.txt."""
    vocab, merges = vocabulary()
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
    settings: dict[str, Any] = {
        "added_tokens_decoder": {str(i): {"content": token, **flags} for token, i in special_ids(kind).items()},
        "clean_up_tokenization_spaces": False,
        **{"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    }
    if kind == "llada":
        raw = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in merges]))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        raw.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL[kind]])
        raw.save(str(folder / "tokenizer.json"))
        settings |= {"add_bos_token": False, "bos_token": "<|startoftext|>", "chat_template": LLADA_TEMPLATE}
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "trust_remote_code": True, "fast_tokenizer": True}
        settings |= {"cls_token": "[CLS]", "gmask_token": "[gMASK]", "merges_file": None, "vocab_file": None}
    else:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        (folder / "tokenization_dream.py").write_text("raise SystemExit('code of a checkpoint was run')\n")
        settings |= {"auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}, "errors": "replace"}
        settings |= {"bos_token": "<|beginoftext|>", "mask_token": "<|mask|>", "unk_token": None}
        settings |= {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "tokenizer_class": "DreamTokenizer"}
        settings |= {"chat_template": DREAM_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def host_of(written: Written, model: str = "", **options: str) -> PretrainedHost:
    """The checkpoint as a host on the CPU; `model` is what stands behind its name."""
    host = load_host(f"{written.folder}{model}", device="cpu", **options)
    assert isinstance(host, PretrainedHost)
    return host
