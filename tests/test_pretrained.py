"""Checkpoints as hosts, whatever their family: attention kernels, random weights, and every kind of strategy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import LAYERS, Written, host_of, write
from checkpoint_factory import config as original_config
from checkpoint_twins import random_ids
from feeding import feed
from filter_factory import make_card, random_filter, write_filter
from tiny_lm import save as save_tiny_lm

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts import attention, dream, llada
from l2pd_bench.hosts.attention import Attention, find_attention
from l2pd_bench.hosts.pretrained import PretrainedHost
from l2pd_bench.hosts.transformer import TransformerConfig
from l2pd_bench.registry import load_host, load_strategy

KINDS = ("llada", "dream")
CPU = torch.device("cpu")


@pytest.fixture(params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    """A small checkpoint of each kind, for one test to spoil."""
    return write(tmp_path / f"{request.param}-tiny", request.param)


@pytest.fixture(scope="module", params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PretrainedHost:
    """One of each kind, loaded."""
    return host_of(write(tmp_path_factory.mktemp("models") / f"{request.param}-tiny", request.param))


@pytest.mark.parametrize("name", ["sdpa", "sdpa-math", "sdpa-flash"])
def test_a_kernel_by_name_is_the_one_that_runs(name: str, written: Written) -> None:
    """Each kernel that runs here gives the same logits, and with one asked for by name, no other is allowed."""
    same, named = host_of(written), host_of(written, attention=name)
    ids, padding = random_ids(2, 24), [0, 5]
    seen: list[tuple[bool, bool]] = []
    hidden = named.model.hidden

    def spy(*args: Any) -> torch.Tensor:
        seen.append((torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        return hidden(*args)

    named.model.hidden = spy  # type: ignore[method-assign]
    with torch.inference_mode():
        wanted, got = (feed(h.open(padding, 24, cached=True), ids, 0, slice(8, 24)) for h in (same, named))

    assert named.attention == name
    assert seen == [{"sdpa": (True, True), "sdpa-math": (True, False), "sdpa-flash": (False, True)}[name]]
    assert torch.allclose(got, wanted, atol=1e-5)


def test_a_kernel_that_cannot_run_is_an_error(written: Written) -> None:
    """A kernel this device has not is refused when the model is loaded, as is a name nobody knows."""
    with pytest.raises(UsageError, match=r"attn: got 'sdpa-cudnn', which cannot run on cpu in float32 with 8 channels"):
        host_of(written, attention="sdpa-cudnn")
    with pytest.raises(UsageError, match=r"attn: got 'flash', expected one of sdpa, .*; did you mean 'sdpa-flash'"):
        host_of(written, attention="flash")


def test_a_kernel_without_masks_refuses_what_needs_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a kernel takes no mask, one prompt decodes and a batch of unequal lengths is refused."""
    real = torch.nn.functional.scaled_dot_product_attention

    def without_masks(*args: Any, attn_mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        if attn_mask is not None:
            raise RuntimeError("No available kernel. Aborting execution.")
        return real(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", without_masks)
    host = host_of(write(tmp_path, "llada"), attention="sdpa-flash")
    strategy, settings = load_strategy("fixed-step:k=8")[0], DecodeSettings(16, 8)

    assert find_attention("sdpa-flash", 8, device=CPU, dtype=torch.float32) == Attention(
        "sdpa-flash", takes_masks=False
    )
    assert decode(host, strategy, [[5, 6]], [0], settings).samples
    with pytest.raises(UsageError, match=r"attn: got 'sdpa-flash' and a batch whose rows differ .* --batch-size 1"):
        decode(host, strategy, [[5, 6], [7]], [0, 0], settings)


def test_every_kernel_has_a_backend() -> None:
    """The names are torch's backends."""
    assert {name.removeprefix("sdpa-"): kernel and kernel.name for name, kernel in attention.KERNELS.items()} == {
        **{"sdpa": None, "graphs": None},
        **{"math": "MATH", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"},
    }


# ------------------------------------------------------------------ random weights


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of the known checkpoints, smaller."""
    for kind, known in (("llada", llada.SHAPE_8B), ("dream", dream.SHAPE_7B)):
        for name, value in original_config(kind).items():
            if name in known:
                monkeypatch.setitem(known, name, value)


@pytest.mark.parametrize("name", ["llada-8b", "dream-7b"])
@pytest.mark.usefixtures("small_shapes")
def test_a_shape_with_random_weights(name: str) -> None:
    """It is known to be random, the same every time, speaks bytes, and decodes; `layers` is part of its name."""
    host = load_host(name, device="cpu", weights="random", dtype="bfloat16")
    again = load_host(name, device="cpu", weights="random", dtype="bfloat16")
    two = load_host(f"{name}:layers=2", device="cpu", weights="random")
    assert isinstance(host, PretrainedHost) and isinstance(again, PretrainedHost) and isinstance(two, PretrainedHost)
    prompt = host.encode("naïve")
    [sample] = decode(host, load_strategy("threshold")[0], [prompt], [0], DecodeSettings(16, 8, cache="dual")).samples

    assert (host.name, two.name, two.model.config.n_layers) == (name, f"{name}:layers=2", 2)
    assert (host.is_trained, host.is_chat, host.revision) == (False, False, "local")
    assert (host.weights_hash, host.tokenizer_id) == ("random, seed 0", "utf-8 bytes, a stand-in")
    assert all(map(torch.equal, host.model.parameters(), again.model.parameters()))
    assert prompt == list("naïve".encode()) and host.decode([*prompt, host.eot_id, 200]) == "naïve\ufffd"
    assert len(sample.output_ids) == 16 and host.mask_id not in sample.output_ids
    assert len(host.vocabulary()) == 256
    with pytest.raises(UsageError, match=r"chat: got no template in the stand-in for a tokenizer"):
        host.encode("dog", chat=True)


@pytest.mark.usefixtures("small_shapes")
def test_random_weights_are_of_a_trained_ones_size() -> None:
    """Activations of a deep network stay small, so that no dtype overflows, and logits are not all the same."""
    host = load_host("llada-8b:layers=32", device="cpu", weights="random", dtype="float16")
    assert isinstance(host, PretrainedHost)
    with torch.inference_mode():
        logits = feed(host.open([0], 64, cached=False), random_ids(1, 64), 0, slice(0, 64))

    assert logits.isfinite().all() and 0.02 < float(logits.float().std()) < 4


def test_a_folder_with_random_weights(written: Written) -> None:
    """`--weights random` with a checkpoint takes its shape and its tokenizer, and reads no weight file."""
    for path in written.folder.glob("*.safetensors"):
        path.unlink()
    host = host_of(written, ":layers=1,chat=false", weights="random")

    assert (host.name, host.is_trained, host.is_chat) == (f"{written.kind}-tiny:layers=1", False, False)
    assert host.tokenizer_id == hashlib.sha256(json.dumps(host.tokens.vocabulary, sort_keys=True).encode()).hexdigest()
    assert host.weights_hash == "random, seed 0" and len(host.model.layers) == 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("llada", {}, r"got 'llada', expected the folder or the repository of a LLaDA .*such as --model GSAI-ML/LLaDA"),
        ("dream", {"weights": "random"}, r"got 'dream', expected the folder or the repository of a Dream checkpoint"),
        ("llada-8b", {}, r"got 'llada-8b', a shape without weights; add --weights random"),
        ("dream-7b", {"revision": "v1", "weights": "random"}, r"revision: got 'v1' for model 'dream-7b'"),
        ("llada-8b", {"weights": "zero"}, r"weights: got 'zero', expected one of random"),
        ("llada-8b:layers=0", {"weights": "random"}, r"layers: got 0, expected at least 1"),
        ("llada-8b:layers=x", {"weights": "random"}, r"layers: got 'x', expected a whole number"),
        ("llada-8b:layer=1", {"weights": "random"}, r"parameter: got 'layer', .*did you mean 'layers'"),
        ("llada-8b:chat=true", {"weights": "random"}, r"chat: got true for model 'llada-8b', whose tokenizer has no"),
        ("mini", {"weights": "random"}, r"weights: got 'random' for model 'mini'"),
    ],
)
def test_requests_that_make_no_model(model: str, options: dict[str, str], message: str) -> None:
    """What a shape or a family without a checkpoint cannot do is told, with the way out."""
    with pytest.raises(UsageError, match=message):
        load_host(model, device="cpu", **options)


def test_unknown_parameters_of_a_checkpoint(written: Written) -> None:
    """A checkpoint has `chat` only; `layers` is for random weights."""
    with pytest.raises(UsageError, match=r"model '\S+-tiny': parameter: got 'layers', expected one of chat"):
        host_of(written, ":layers=2")


# ------------------------------------------------------------------ end to end


APD = "apd:R=0.9"


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        *(
            (n, c)
            for n in ("fixed-step:k=2", "threshold", "learn2pd", "oracle", APD)
            for c in ("none", "prefix", "dual")
        ),
        (f"{APD},schedule=native,W=1,M=20", "none"),
    ],
)
def test_every_strategy_decodes(name: str, cache: str, host: PretrainedHost, tmp_path: Path) -> None:
    """Each kind of strategy fills a left-padded batch; the scorer shares the tokenizer, the filter the weights."""
    prompts = [host.encode(text)[-size:] for text, size in (("what is 3 times 4?", 12), ("def double(x):", 20))]
    if name == "learn2pd":
        card = make_card(host, 32)
        name += f":filter={write_filter(tmp_path / 'filter.safetensors', card, random_filter(card, 0, 0.1))}"
    if name.startswith(APD):
        raw = host.tokens.raw._tokenizer  # type: ignore[attr-defined]
        name += f",scorer={save_tiny_lm(tmp_path, 'Qwen2', raw, host.vocab_size)}"
    strategy, _ = load_strategy(name)
    if strategy.frontier() is not None:  # it decodes one prompt at a time
        prompts = prompts[1:]
    seeds, references = [0] * len(prompts), None
    settings = DecodeSettings(64, 32, cache=cache, eot="predict" if cache == "dual" else "decode")
    if strategy.uses_reference:
        baseline = decode(host, load_strategy("fixed-step")[0], prompts, seeds, settings).samples
        references = [sample.output_ids for sample in baseline]
    samples = decode(host, strategy, prompts, seeds, settings, references).samples

    for sample in samples:
        assert len(sample.output_ids) + sample.cut_tokens == 64
        assert host.mask_id not in sample.output_ids
        assert sample.nfe_auxiliary > 0 or not name.startswith(("learn2pd", APD))


def test_flops_are_those_of_the_matrices(host: PretrainedHost) -> None:
    """Without attention, a row costs two operations for each weight of its layers, one of the head for each logit."""
    matrices = {name: w.numel() for name, w in host.model.named_parameters() if w.dim() > 1}
    layers = sum(size for name, size in matrices.items() if name.startswith("layers."))

    assert host.flops(7, 0, 0) == 7 * 2 * layers
    assert host.flops(0, 0, 5) == 5 * 2 * matrices["head.weight"]
    assert host.flops(1, 11, 0) - host.flops(1, 0, 0) == LAYERS * 4 * 11 * 32


def test_a_shape_says_what_is_wrong_with_it() -> None:
    """Sizes that make no network are refused when they are put together."""
    sizes = {"vocab_size": 8, "d_model": 32, "n_layers": 1, "n_heads": 4, "ffn_size": 8}
    for wrong in ({"d_model": 36}, {"n_kv_heads": 3}, {"n_kv_heads": 2, "causal": True}, {"n_layers": 0}):
        with pytest.raises(ValueError, match=r"at least 1|channels for each|cannot share"):
            TransformerConfig(**{**sizes, **wrong})  # type: ignore[arg-type]
