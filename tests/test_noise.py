"""The counter-based random numbers: even, independent of each other, finite, and a function of what they name."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy import stats
from torch import Tensor

from l2pd_bench import noise

RARE = 1e-4  # a correct program fails a check of this size once in ten thousand choices of seeds


def uniforms(seeds: Tensor, stream: int = 0, offsets: Tensor | None = None, step: int = 0) -> Tensor:
    """Draws (B, N) for `seeds` (B,), at 32 offsets unless told otherwise."""
    return noise.uniform(noise.keys(seeds, stream, torch.arange(32) if offsets is None else offsets, step))


def evenly_spread(values: Tensor, bins: int = 64) -> float:
    """The p-value of a chi-square test for a uniform distribution on [0, 1)."""
    counts = torch.histc(values.flatten(), bins, 0, 1)
    return float(stats.chisquare(counts.numpy()).pvalue)


@pytest.mark.parametrize("vary", ["seed", "hashed seed", "step", "stream", "offset"])
def test_uniform_is_uniform(vary: str) -> None:
    """Draws are float32 in [0, 1) and evenly spread, whichever of the coordinates varies."""
    if vary == "seed":
        u = uniforms(torch.arange(4000))
    elif vary == "hashed seed":
        u = uniforms(torch.tensor([noise.sample_seed(0, f"task/{i:03d}") for i in range(4000)]))
    elif vary == "offset":
        u = uniforms(torch.tensor([7]), offsets=torch.arange(100_000))
    else:
        places = [(i, 0) if vary == "stream" else (1, i) for i in range(4000)]
        u = torch.cat([uniforms(torch.tensor([7]), stream, step=step) for stream, step in places])

    assert u.dtype == torch.float32
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert evenly_spread(u) > RARE


@pytest.mark.parametrize("other", ["seed", "step", "stream", "offset"])
def test_uniform_neighbours_are_independent(other: str) -> None:
    """Draws at neighbouring coordinates fill the unit square evenly, and are not correlated."""
    seeds = torch.arange(2000)
    u = uniforms(seeds, 1, step=3)
    v = {
        "seed": lambda: uniforms(seeds + 1, 1, step=3),
        "step": lambda: uniforms(seeds, 1, step=4),
        "stream": lambda: uniforms(seeds, 2, step=3),
        "offset": lambda: uniforms(seeds, 1, torch.arange(1, 33), step=3),
    }[other]()
    square = Counter(zip((u * 8).long().flatten().tolist(), (v * 8).long().flatten().tolist(), strict=True))

    assert stats.chisquare([square[cell] for cell in itertools.product(range(8), range(8))]).pvalue > RARE
    assert abs(float(torch.corrcoef(torch.stack([u.flatten(), v.flatten()]))[0, 1])) < 4 / math.sqrt(u.numel())


def test_all_coordinates_give_different_keys() -> None:
    """No two of many (seed, stream, offset, step) share a key, as they would if coordinates were only added up."""
    seeds, offsets = torch.arange(20), torch.arange(32)
    keys = torch.stack([noise.keys(seeds, stream, offsets, step) for stream in range(3) for step in range(40)])

    assert keys.dtype == torch.int64
    assert len(keys.unique()) == keys.numel()


def test_gumbel_is_standard_gumbel() -> None:
    """Gumbel noise is finite and passes a Kolmogorov-Smirnov test; its vocabulary entries are independent."""
    g = noise.gumbel(noise.keys(torch.arange(500), 1, torch.arange(4), 0), 100)

    assert g.shape == (500, 4, 100)
    assert g.dtype == torch.float32
    assert bool(g.isfinite().all())
    assert stats.kstest(g.flatten().double().numpy(), "gumbel_r").pvalue > RARE
    by_token = torch.corrcoef(g.reshape(-1, 100).T).fill_diagonal_(0)
    assert float(by_token.abs().max()) < 5 / math.sqrt(2000)


def unmix(z: int) -> int:
    """The state whose SplitMix64 output is `z`: each stage inverted, from the published constants."""
    word = (1 << 64) - 1

    def unshift(x: int, by: int) -> int:
        result = x
        for _ in range(64 // by):
            result = x ^ (result >> by)
        return result

    z = unshift(z, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & word
    z = unshift(z, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & word
    state = (unshift(z, 30) - 0x9E3779B97F4A7C15) & word
    return state - (1 << 64) if state >> 63 else state


@pytest.mark.parametrize("output", [0, 1, 1 << 63, 0xFEDCBA9876543210, (1 << 64) - 1])
def test_mixer_is_splitmix64(output: int) -> None:
    """The mixer is SplitMix64 for every 64-bit word, the negative ones included."""
    assert int(noise.mix(torch.tensor(unmix(output)))) & ((1 << 64) - 1) == output


@pytest.mark.parametrize("draw", [0, 1, 1 << 63, 0xFFFFFE << 40, 0xFFFFFF << 40, (1 << 64) - 1])
def test_gumbel_is_finite_for_extreme_draws(draw: int) -> None:
    """The least and the largest of the draws give finite noise: an infinite one would beat every logit."""
    assert bool(noise.gumbel(torch.tensor([unmix(draw)]), 1).isfinite().all())


def test_sample_seed_depends_on_both_parts() -> None:
    """A sample's seed is a fixed non-negative 63-bit number, of the run's seed and of the item's id."""
    seeds = [noise.sample_seed(seed, doc) for seed in range(-2, 50) for doc in ("a", "b", "1", "11")]

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    assert noise.sample_seed(3, "a") == noise.sample_seed(3, "a")
