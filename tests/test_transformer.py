"""The lean transformer against transformers' Llama, and its FLOP count against torch's counter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from feeding import feed
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.hosts.session import TransformerSession
from l2pd_bench.hosts.transformer import Transformer, TransformerConfig

PADDING, LENGTH = [0, 3, 17], 40


def llama(model: Transformer) -> Any:
    """The same weights in transformers' own LlamaForCausalLM."""
    transformers = pytest.importorskip("transformers")
    config, d = model.config, model.config.d_model
    twin = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=d,
            intermediate_size=config.ffn_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    weights = {
        "model.embed_tokens.weight": model.embed.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    own = model.state_dict()
    for i in range(config.n_layers):
        q, k, v = own[f"layers.{i}.qkv.weight"].split(d)
        gate, up = own[f"layers.{i}.gate_up.weight"].split(config.ffn_size)
        weights |= {
            f"model.layers.{i}.input_layernorm.weight": own[f"layers.{i}.attn_norm.weight"],
            f"model.layers.{i}.post_attention_layernorm.weight": own[f"layers.{i}.ffn_norm.weight"],
            f"model.layers.{i}.self_attn.q_proj.weight": q,
            f"model.layers.{i}.self_attn.k_proj.weight": k,
            f"model.layers.{i}.self_attn.v_proj.weight": v,
            f"model.layers.{i}.self_attn.o_proj.weight": own[f"layers.{i}.attn_out.weight"],
            f"model.layers.{i}.mlp.gate_proj.weight": gate,
            f"model.layers.{i}.mlp.up_proj.weight": up,
            f"model.layers.{i}.mlp.down_proj.weight": own[f"layers.{i}.down.weight"],
        }
    twin.load_state_dict(weights)
    return twin.eval()


def llama_logits(twin: Any, ids: Tensor, padding: list[int]) -> Tensor:
    """Bidirectional logits of left-padded rows: an additive mask of all pairs, positions from the first real column."""
    pad = torch.tensor(padding)[:, None]
    columns = torch.arange(ids.shape[1])[None]
    blocked = (columns < pad)[:, None, None].expand(-1, 1, ids.shape[1], -1)
    mask = torch.zeros(blocked.shape).masked_fill(blocked, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        output = twin(input_ids=ids, attention_mask=mask, position_ids=(columns - pad).clamp(min=0), use_cache=False)
    logits: Tensor = output.logits
    return logits


def differ(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest logit (about 10, so 1e-5 of it is 1e-4)."""
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.fixture
def ids(mini: MiniHost) -> Tensor:
    """Three rows of arbitrary ids."""
    return torch.randint(mini.vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def test_whole_sequences_equal_llama(mini: MiniHost, ids: Tensor) -> None:
    """Without padding the logits are those of transformers' Llama with a full mask, to float32 rounding."""
    with torch.inference_mode():
        got = mini.model(ids)

    assert differ(got, llama_logits(llama(mini.model), ids, [0, 0, 0])) <= 1e-5


@pytest.mark.parametrize("cached", [False, True])
def test_left_padded_sessions_equal_llama(mini: MiniHost, ids: Tensor, cached: bool) -> None:
    """A session on left-padded rows gives Llama's logits at every real column, to float32 rounding."""
    with torch.inference_mode():
        got = feed(mini.open(PADDING, LENGTH, cached=cached), ids, 0, slice(0, LENGTH))
    wanted = llama_logits(llama(mini.model), ids, PADDING)

    for row, pad in enumerate(PADDING):
        assert differ(got[row, pad:], wanted[row, pad:]) <= 1e-5


def test_padding_ids_do_not_matter(mini: MiniHost, ids: Tensor) -> None:
    """What stands in the padding changes no logit of a real column, and a padded row equals the bare one."""
    other = ids.clone()
    for row, pad in enumerate(PADDING):
        other[row, :pad] = 5
    block = slice(20, LENGTH)
    with torch.inference_mode():
        first, second = (
            feed(TransformerSession(mini.model, PADDING, LENGTH, cached=False), x, 0, block) for x in (ids, other)
        )
        bare = [mini.model(ids[row : row + 1, pad:])[0, 20 - pad :] for row, pad in enumerate(PADDING)]

    assert torch.equal(first, second)
    assert differ(first, torch.stack(bare)) <= 1e-5


def test_order_of_positions_matters(mini: MiniHost, ids: Tensor) -> None:
    """Rotary positions are in use: swapping two far tokens changes the logits of a third."""
    swapped = ids.clone()
    swapped[:, 2], swapped[:, 30] = 20, 21
    ids = swapped.clone()
    swapped[:, [2, 30]] = ids[:, [30, 2]]
    with torch.inference_mode():
        change = (mini.model(ids) - mini.model(swapped))[0, 15].abs().max()

    assert change > 1e-2


def counted(model: Transformer, queries: int, keys: int, logits: int) -> int:
    """FLOPs of one windowed forward as torch counts them: matrix products, attention's two included."""
    session = TransformerSession(model, [0], keys, cached=queries < keys)
    # the fused CPU kernel has no formula in torch's counter, the plain one is made of counted products
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        feed(session, torch.zeros(1, queries, dtype=torch.int64), keys - queries, slice(keys - logits, keys))
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("queries", "keys", "logits"), [(96, 96, 32), (96, 96, 96), (64, 96, 32), (32, 96, 32)])
def test_flops_equal_torchs_count(mini: MiniHost, queries: int, keys: int, logits: int) -> None:
    """`flops` counts exactly the matrix products of a forward: projections, attention, feed-forward and head.

    Neither counts embedding, norms, rotation, softmax, SiLU and additions.
    """
    assert mini.model.config.flops(queries, keys, logits) == counted(mini.model, queries, keys, logits)


@pytest.mark.parametrize(("n_kv_heads", "qkv_bias"), [(None, False), (2, True), (1, True)])
def test_flops_of_another_shape(n_kv_heads: int | None, qkv_bias: bool) -> None:
    """The count holds for a model of another shape, where no two sizes are equal, and with shared keys and values."""
    sizes = {"vocab_size": 50, "d_model": 24, "n_layers": 3, "n_heads": 6, "ffn_size": 40}
    config = TransformerConfig(**sizes, n_kv_heads=n_kv_heads, qkv_bias=qkv_bias)  # type: ignore[arg-type]

    assert config.flops(7, 11, 5) == counted(Transformer(config), 7, 11, 5)


@pytest.mark.parametrize("mask", [False, True])
def test_shared_keys_are_as_if_each_head_had_its_own(mask: bool) -> None:
    """A network whose heads share keys and values equals one in which they are written out for every head."""
    shared = Transformer(TransformerConfig(50, 24, 2, 6, 40, n_kv_heads=2, qkv_bias=True))
    whole = Transformer(TransformerConfig(50, 24, 2, 6, 40, qkv_bias=True))
    draws = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(w.shape, generator=draws) for name, w in shared.named_parameters()}
    shared.load_state_dict(weights)
    for name in [name for name in weights if ".qkv." in name]:
        q, k, v = weights[name].split([24, 8, 8])
        k, v = (x.unflatten(0, (2, 4)).repeat_interleave(3, 0).flatten(0, 1) for x in (k, v))
        weights[name] = torch.cat([q, k, v])
    whole.load_state_dict(weights)
    ids, padding = torch.randint(50, (2, 12), generator=draws), [0, 4 if mask else 0]
    got, wanted = [], []
    with torch.inference_mode():
        for model, logits in ((shared, got), (whole, wanted)):
            session = TransformerSession(model, padding, 12, cached=True)
            logits += [feed(session, ids, 0, slice(4, 12)), feed(session, ids[:, 6:9], 6, slice(6, 9))]

    assert all(differ(a, b) <= 1e-5 for a, b in zip(got, wanted, strict=True))


def test_causal_rows_see_only_what_is_before(mini: MiniHost, ids: Tensor) -> None:
    """With `causal`, a later token changes no earlier logit."""
    config = TransformerConfig(**{**vars(mini.model.config), "causal": True})
    with torch.device("meta"):
        scorer = Transformer(config)
    scorer.load_state_dict(copy.deepcopy(mini.model.state_dict()), assign=True)
    other = ids.clone()
    other[:, 25:] = 7
    with torch.inference_mode():
        first, second = scorer(ids), scorer(other)

    assert torch.allclose(first[:, :25], second[:, :25], atol=1e-5)
    assert not torch.allclose(first[:, 25:], second[:, 25:], atol=1e-2)
