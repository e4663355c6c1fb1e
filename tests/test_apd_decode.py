"""APD through the engine: against a decoder that keeps nothing, and in batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from l2pd_bench import noise
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.hosts.mini import COMPANION, MiniHost, read_model
from l2pd_bench.hosts.transformer import Transformer
from l2pd_bench.strategies.apd import Apd

GEN, BLOCK, SAMPLING = 64, 16, 1  # the last: the engine's stream of noise
Prompts = Callable[[int, int], list[list[int]]]


@pytest.fixture(scope="module")
def companion() -> Transformer:
    """The companion's network."""
    return read_model(
        Path(__file__).parents[1] / "bench" / "hosts" / COMPANION, device=torch.device("cpu"), dtype=torch.float32
    )


@torch.inference_mode()
def slow_decode(
    host: MiniHost, companion: Transformer, strategy: Apd, prompt: list[int], seed: int, temperature: float
) -> tuple[list[int], int]:
    """Algorithm 1 with whole forwards of bare sequences in every iteration: generated ids, and iterations."""
    canvas = [*prompt, *[host.mask_id] * GEN]
    total, in_block = 0, dict.fromkeys(range(GEN // BLOCK), 0)
    while host.mask_id in canvas:
        t = canvas.index(host.mask_id)
        if strategy.schedule == "native":
            r = len(canvas) if strategy.M is None else min(t + strategy.M, len(canvas))
            seen, step = canvas[:r], total
        else:
            block = (t - len(prompt)) // BLOCK
            r = len(prompt) + (block + 1) * BLOCK
            seen, step = canvas, in_block[block]
            in_block[block] += 1
        total += 1
        host_logits = host.model(torch.tensor([seen]))[0, t:r]
        host_logits[:, host.mask_id] = -math.inf
        key = noise.keys(torch.tensor([seed]), SAMPLING, torch.arange(t, r) - len(prompt), step)
        g = noise.gumbel(key, host.vocab_size)[0] if temperature else torch.zeros_like(host_logits)
        draft = (host_logits / (temperature or 1) + g).argmax(-1).tolist()
        target = strategy.R * host_logits
        target += (1 - strategy.R) * companion(torch.tensor([canvas[:t] + draft]))[0, t - 1 : -1]
        picks = (target / (temperature or 1) + g).argmax(-1).tolist()
        count = 1
        while count < len(draft) and draft[count] == picks[count]:
            count += 1
        canvas[t : t + count] = draft[:count]
    return canvas[len(prompt) :], total


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    "strategy",
    [Apd(R=0.5), Apd(R=0.2, schedule="native", W=None, M=None), Apd(R=0.5, schedule="native", W=None, M=20)],
    ids=str,
)
def test_engine_equals_a_decoder_that_keeps_nothing(
    strategy: Apd, temperature: float, mini: MiniHost, companion: Transformer, mini_prompts: Prompts
) -> None:
    """Tokens and forwards are those of whole forwards of both models, in blocks and, with W=none, natively."""
    settings = DecodeSettings(GEN, BLOCK, temperature=temperature)
    iterations = []
    for seed, prompt in enumerate(mini_prompts(4, 21)):
        sample = decode(mini, strategy, [prompt], [seed], settings).samples[0]
        ids, total = slow_decode(mini, companion, strategy, prompt, seed, temperature)

        assert sample.output_ids == ids
        assert sample.nfe_full + sample.nfe_window == sample.nfe_auxiliary == total
        iterations.append(total)
    assert max(iterations) > GEN // (BLOCK if strategy.schedule == "block" else strategy.M or GEN)


@pytest.mark.parametrize(("cache", "eot"), [("none", "stop"), ("dual", "stop"), ("none", "predict")])
@pytest.mark.parametrize(
    ("strategy", "temperature"), [(Apd(R=0.5), 0.0), (Apd(R=0.3), 0.7), (Apd(variant="release"), 0.7)]
)
def test_a_sample_is_the_same_in_any_batch(
    strategy: Apd, temperature: float, cache: str, eot: str, mini: MiniHost, mini_prompts: Prompts
) -> None:
    """On `mini`, tokens and counts of a padded batch whose rows end one by one are those of each sample alone.

    Every forward of the host is followed by one of the scorer, and no commit has to be forced.
    """
    settings = DecodeSettings(64, 16, cache=cache, eot=eot, temperature=temperature)
    prompts = mini_prompts(6, 12)
    together = decode(mini, strategy, prompts, list(range(6)), settings).samples
    alone = [decode(mini, strategy, [p], [i], settings).samples[0] for i, p in enumerate(prompts)]

    assert together == alone
    assert len({len(sample.output_ids) for sample in alone}) > 1
    for sample in alone:
        assert sample.nfe_auxiliary == sample.nfe_full + sample.nfe_window
        assert sample.forced_commits == 0
