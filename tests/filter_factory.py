"""Made-up Learn2PD filters, a host with made-up weights to use them on, and the commands that make real ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2pd_bench import cli
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.mini import MiniHost, MiniTokenizer
from l2pd_bench.hosts.transformer import Transformer, TransformerConfig
from l2pd_bench.mini import init_weights
from l2pd_bench.strategies.filter_file import Filter, FilterCard, dump_filter


def make_card(host: Host, block_length: int, **changes: object) -> FilterCard:
    """A card for a host, all but what must be right made up."""
    card = FilterCard(
        host=host.name,
        weights_hash=host.weights_hash,
        block_length=block_length,
        gen_length=64,
        depth=2,
        inputs=(),
        masked_only=False,
        tau=0.96,
        command="made up",
        data={},
        recipe={},
        metrics={},
    )
    return replace(card, **changes)  # type: ignore[arg-type]


def random_filter(card: FilterCard, seed: int, middle: float) -> Filter:
    """Random weights such that confidences around `middle` decide; some positions are accepted, some are not."""
    net = Filter(card.block_length, card.depth, card.inputs)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for i, layer in enumerate(net.layers):
            weight = torch.randn(layer.weight.shape, generator=draws) * 6 / layer.weight.shape[1] ** 0.5
            layer.weight.copy_(weight)
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=draws) - (middle * weight.sum(1) if not i else 0))
    return net


def write_filter(path: Path, card: FilterCard, net: Filter) -> Path:
    """A filter file."""
    path.write_bytes(dump_filter(net, card))
    return path


def random_host() -> MiniHost:
    """A LLaDA-shaped model with random weights, scaled such that positions differ, and some predict the EoT."""
    tokenizer = MiniTokenizer.shipped()
    model = Transformer(TransformerConfig(tokenizer.vocab_size, 48, 2, 4, 96))
    init_weights(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.embed.weight[tokenizer.mask].mul_(0.3)
        for layer in model.layers:
            layer.qkv.weight.mul_(4)
            layer.attn_out.weight.mul_(10)
        model.head.weight.mul_(4)
        model.head.weight[tokenizer.eot].mul_(2)
    return MiniHost("random", model, tokenizer, "random weights")


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `l2pd-bench filter` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["l2pd-bench", "filter", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else int(bool(ended.value.code))
