"""Tiny random causal language models on disk, as Hugging Face writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer


def save(folder: Path, kind: str, raw: Tokenizer, vocab_size: int) -> Path:
    """A tiny random model of a Hugging Face family, with a tokenizer beside it."""
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    config = getattr(transformers, f"{kind}Config")(**shape, **heads, tie_word_embeddings=kind == "Qwen2")
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    network.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    return folder
