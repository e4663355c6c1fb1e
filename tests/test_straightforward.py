"""The plain loop that the engine is measured against: the same tokens, by more work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from l2pd_bench import benchmark_straightforward
from l2pd_bench.benchmark_meter import metered
from l2pd_bench.benchmark_setup import Setup, network
from l2pd_bench.benchmark_straightforward import compare_once, measure_straightforward, scaled_host
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.hosts.session import ShiftedSession
from l2pd_bench.straightforward import decode_plainly

CACHES = ("none", "prefix", "dual")
GEN, BLOCK = 16, 8


@pytest.fixture(scope="module")
def random_host() -> Host:
    """LLaDA's shape at random, with shared keys and a vocabulary of 1976, and weights so large that places matter."""
    host = scaled_host(64, n_layers=2, n_kv_heads=2)
    for name, weight in network(host).named_parameters():
        if weight.dim() == 2 and not name.startswith("embed"):
            weight.mul_(20)
    return host


def test_same_tokens_and_forwards_on_mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded model every cache and rule gives the engine's tokens with as many forwards."""
    monkeypatch.setattr(benchmark_straightforward, "ALONE", 1)

    figures = measure_straightforward(1, Setup(gen_length=16, block_length=8))

    equal = [f for f in figures if f.name.startswith("share of equal")]
    assert len(equal) == 6 and all(f.rounds == [1.0] and f.verdict == "met" for f in equal)
    assert {f.at_least for f in figures if f.name.startswith("straightforward /")} == {2.0, None, 3.0}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_same_tokens_and_forwards_at_random(random_host: Host, cache: str, threshold: float | None) -> None:
    """With a large vocabulary and shared keys, too, the engine's tokens and forwards are the plain loop's."""
    prompts = Setup(prompt_length=12).prompts(random_host, 3)
    settings = DecodeSettings(gen_length=GEN, block_length=BLOCK, cache=cache)
    name = "fixed-step" if threshold is None else "threshold"

    assert compare_once(random_host, prompts, name, threshold, settings)[1] == 1.0


def test_one_clock(random_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides are timed by the device's own clock: where it shows one second and then three, the ratio is three."""
    shown = iter([1.0, 3.0])
    clock = SimpleNamespace(finish=lambda: (next(shown), {}))
    monkeypatch.setattr(benchmark_straightforward, "Stopwatch", lambda device: clock)
    settings = DecodeSettings(gen_length=BLOCK, block_length=BLOCK)

    assert compare_once(random_host, [[5, 6]], "fixed-step", None, settings)[0] == 3.0


def test_threshold_fills_several(random_host: Host) -> None:
    """At that threshold the random model fills several masks per forward, but not all at once."""
    (prompt,) = Setup(prompt_length=12).prompts(random_host, 1)
    plain = decode_plainly(
        network(random_host),
        prompt,
        mask_id=random_host.mask_id,
        gen_length=GEN,
        block_length=BLOCK,
        cache="dual",
        threshold=0.3,
    )
    assert GEN // BLOCK < plain.nfe < GEN
    assert len(set(plain.output_ids)) > 4  # distinct: what stands in other places matters
    assert random_host.mask_id not in plain.output_ids and len(plain.output_ids) == GEN


@pytest.mark.parametrize("cache", CACHES)
def test_it_does_the_published_work(mini: MiniHost, cache: str) -> None:
    """Logits of all that was fed, two reads per layer and step with dual, keys joined in every layer with prefix."""
    prompt = mini.encode("Ann has 2 pens.")
    length, layers, steps = len(prompt) + BLOCK, mini.model.config.n_layers, BLOCK - 1
    with metered(mini.vocab_size) as meter:
        plain = decode_plainly(
            mini.model,
            prompt,
            mask_id=mini.mask_id,
            gen_length=BLOCK,
            block_length=BLOCK,
            cache=cache,
            threshold=None,
        )
    assert plain.nfe == BLOCK
    assert meter.logit_rows == length + steps * {"none": length, "prefix": BLOCK, "dual": BLOCK}[cache]
    assert meter.reads["nonzero"] == (2 * layers * steps if cache == "dual" else 0)
    joins = 2 * layers * steps if cache == "prefix" else 0
    in_rotation = 4 * layers * BLOCK  # two halves of queries and of keys, and two tables
    assert meter.operators["cat"] == joins + in_rotation
    assert meter.operators["argmax"] == BLOCK + (steps if cache == "prefix" else 0)


def test_shifted_models_are_refused(mini: MiniHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that predicts from the left is not LLaDA's kind, and said to be so before anything is measured."""
    monkeypatch.setattr(MiniHost, "open", lambda *_, **__: ShiftedSession.__new__(ShiftedSession))

    with pytest.raises(UsageError, match=r"got 'mini', which predicts from the left"):
        measure_straightforward(1, Setup())


def test_scaled_shape_keeps_proportions() -> None:
    """The scaled shape has LLaDA-8B's layers, and its vocabulary and gate beside `d_model`."""
    config = network(scaled_host(64)).config
    assert config.n_layers == 32
    assert (config.vocab_size / config.d_model, config.ffn_size / config.d_model) == (126_464 / 4096, 12_288 / 4096)
    assert scaled_host(64, n_layers=1).dtype == torch.float32
