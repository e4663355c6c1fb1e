"""The caches against a slow decoder that freezes every layer's keys and values by hand.

The decoder shares nothing with the program but the weights (`slow_forward.py`). Both compute
in float64, so that a difference means a different definition and never another order of sums.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from feeding import feed
from slow_forward import slow_forward
from torch import Tensor

from l2pd_bench.cache import POLICIES
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.hosts.session import TransformerSession
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.threshold import Threshold

Prompts = Callable[[int, int], list[list[int]]]
Rule = Callable[[list[int], list[float], int], list[int]]  # masked places, confidences, step -> places to fill


def slow_decode(
    host: MiniHost, prompt: list[int], rule: Rule, cache: str, gen: int, block: int, *, predicts: bool = False
) -> tuple[list[int], list[tuple[int, int]]]:
    """Generated ids, and for each forward how many columns it fed of how many there were."""
    canvas, fed = [*prompt, *[host.mask_id] * gen], []
    for start in range(len(prompt), len(canvas), block):
        step, frozen = 0, None
        while any(token == host.mask_id for token in canvas[start : start + block]):
            places = range(start, min(start + block, len(canvas)))
            if cache == "none" or step == 0:
                window = range(len(canvas))
                logits, frozen = slow_forward(host.model, canvas, window, None)
            else:
                window = range(start, len(canvas)) if cache == "prefix" else places
                logits, _ = slow_forward(host.model, canvas, window, frozen)
            fed.append((len(window), len(canvas)))
            rows = logits[start - window.start :].float()  # of every predicted column from the block on
            rows[:, host.mask_id] = -math.inf
            tokens = rows.argmax(-1).tolist()
            confidences = (rows.max(-1).values - rows.logsumexp(-1)).exp().tolist()
            filled = rule([c - start for c in places if canvas[c] == host.mask_id], confidences, step)
            for place in filled:
                canvas[start + place] = tokens[place]
            step += 1
            if predicts:
                canvas = canvas[: end_by_prediction(host, canvas, start, filled, tokens, confidences)]
                frozen = [(k[: len(canvas)], v[: len(canvas)]) for k, v in frozen or []]
    return canvas[len(prompt) :], fed


def end_by_prediction(
    host: MiniHost, canvas: list[int], start: int, filled: list[int], tokens: list[int], confidences: list[float]
) -> int:
    """Where EoT prediction ends the canvas: behind the first EoT just filled in, else behind the surest hint."""
    committed = [place for place in filled if tokens[place] == host.eot_id]
    hints = [i for i, t in enumerate(tokens) if t == host.eot_id and canvas[start + i] == host.mask_id]
    if committed:
        return start + min(committed) + 1
    if hints:
        return start + min(hints, key=lambda i: (-confidences[i], i)) + 1
    return len(canvas)


def top(k: int) -> Rule:
    """The k most confident places, the lowest first among equals."""
    return lambda masked, confidences, step: sorted(masked, key=lambda c: (-confidences[c], c))[:k]


def at_least(tau: float) -> Rule:
    """All places with confidence >= tau, and the best."""
    return lambda masked, confidences, step: (
        [c for c in masked if confidences[c] >= tau] + top(1)(masked, confidences, step)
    )


CASES: dict[str, tuple[Strategy, Rule]] = {
    "k=2": (FixedStep(k=2), top(2)),
    "k=4 left-to-right": (FixedStep(k=4, order="left-to-right"), lambda masked, confidences, step: masked[:4]),
    "threshold 0.9": (Threshold(tau=0.9), at_least(0.9)),
    "threshold 0.4": (Threshold(tau=0.4), at_least(0.4)),
    "whole block": (FixedStep(k=16), top(16)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_cache_equals_frozen_keys_and_values(case: str, cache: str, mini64: MiniHost, mini_prompts: Prompts) -> None:
    """Tokens, full and window forwards, positions and FLOPs are those of explicitly frozen keys and values."""
    strategy, rule = CASES[case]
    gen, block = 48, 16
    prompts = mini_prompts(3, 20 + list(CASES).index(case))
    batch = decode(mini64, strategy, prompts, [0] * 3, DecodeSettings(gen, block, cache=cache))

    for prompt, sample in zip(prompts, batch.samples, strict=True):
        with torch.inference_mode():
            ids, fed = slow_decode(mini64, prompt, rule, cache, gen, block)
        full = len(fed) if cache == "none" else gen // block
        assert sample.output_ids == ids
        assert (sample.nfe_full, sample.nfe_window) == (full, len(fed) - full)
        assert sample.positions == sum(n for n, _ in fed)
        assert sample.flops == sum(mini64.model.config.flops(n, length, block) for n, length in fed)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_eot_prediction_deletes_what_is_behind(case: str, cache: str, mini64: MiniHost, mini_prompts: Prompts) -> None:
    """Under `predict` the canvas is really shorter: deleted columns are not fed, and their keys are not attended to.

    Rule 2 looks at all columns that the forward has predicted: the rest of the canvas under
    none and prefix and at the start of a block, the block's under dual afterwards.
    """
    strategy, rule = CASES[case]
    gen, block = 48, 16
    prompts = mini_prompts(3, 60 + list(CASES).index(case))
    host = copy.copy(mini64)
    cut = 0
    for eot_id in (mini64.eot_id, mini64.tokenizer.answer("1 ")[0]):  # a token that comes and goes, too
        host.eot_id = eot_id
        settings = DecodeSettings(gen, block, cache=cache, eot="predict")
        for prompt, sample in zip(prompts, decode(host, strategy, prompts, [0] * 3, settings).samples, strict=True):
            with torch.inference_mode():
                ids, fed = slow_decode(host, prompt, rule, cache, gen, block, predicts=True)
            full = sum(n == length for n, length in fed)
            assert sample.output_ids == ids
            assert sample.cut_tokens == gen - len(ids)
            assert (sample.nfe_full, sample.nfe_window) == (full, len(fed) - full)
            assert sample.positions == sum(n for n, _ in fed)
            cut += sample.cut_tokens
    assert cut > 100


def test_the_caches_differ(mini64: MiniHost, mini_prompts: Prompts) -> None:
    """The three caches are three computations: the confidences of a block's second step differ between them."""
    prompt, gen, block = mini_prompts(1, 30)[0], 32, 16
    canvas = [*prompt, *[mini64.mask_id] * gen]
    start = len(prompt)
    with torch.inference_mode():
        _, frozen = slow_forward(mini64.model, canvas, range(len(canvas)), None)
        canvas[start] = mini64.eot_id
        seconds = [
            slow_forward(mini64.model, canvas, window, kept)[0][start - window.start :][:block]
            for window, kept in (
                (range(len(canvas)), None),
                (range(start, len(canvas)), frozen),
                (range(start, start + block), frozen),
            )
        ]

    for a in range(3):
        for b in range(a):
            assert (seconds[a] - seconds[b]).abs().max() > 1e-6


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_padded_session_equals_frozen_keys_and_values(cache: str, mini: MiniHost, mini_prompts: Prompts) -> None:
    """In a left-padded float32 batch, and after rows were dropped, windowed logits are those of the slow forward."""
    gen, block = 32, 16
    prompts = mini_prompts(4, 31)
    longest = max(map(len, prompts))
    padding = [longest - len(p) for p in prompts]
    length = longest + gen
    generator = torch.Generator().manual_seed(3)
    rows = [[*p, *torch.randint(10, 200, (gen,), generator=generator).tolist()] for p in prompts]

    def batch() -> Tensor:
        return torch.tensor([[0] * (length - len(row)) + row for row in rows])

    session = mini.open(padding, length, cached=True)
    kept = list(range(4))
    for first in (longest, longest + block):  # two blocks, rows dropped between them
        columns = slice(first, first + block)
        window = slice(first, length if cache == "prefix" else first + block)
        with torch.inference_mode():
            feed(session, batch()[kept], 0, columns, rows=kept)
            frozen = {i: slow_forward(mini.model, rows[i], range(len(rows[i])), None)[1] for i in kept}
            for i in kept:  # a commit inside the block, and one behind it that a window of the block must not see
                rows[i][first - padding[i] + 3] = 40 + i
                if window.stop < length:
                    rows[i][-1] = 50 + i
            got = feed(session, batch()[kept, window], window.start, columns, rows=kept)
            for place, i in enumerate(kept):
                own = range(window.start - padding[i], window.stop - padding[i])
                wanted = slow_forward(mini.model, rows[i], own, frozen[i])[0][:block]
                assert (got[place] - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        if len(kept) == 4:
            kept = [3, 1]


def test_keys_and_values_are_written_in_place(mini: MiniHost) -> None:
    """A windowed forward writes into the tensor allocated at the start, the window's columns only."""
    session = mini.open([0], 40, cached=True)
    assert isinstance(session, TransformerSession)
    assert session.room.store is not None
    ids = torch.full((1, 40), mini.mask_id)
    with torch.inference_mode():
        feed(session, ids, 0, slice(8, 24))
        before, address = session.room.store.clone(), session.room.store.data_ptr()
        feed(session, torch.full((1, 16), 30), 8, slice(8, 24))

    assert session.room.store.data_ptr() == address
    changed = (session.room.store != before).flatten(0, 2).any(-1).any(-1).any(0)
    assert changed.tolist() == [8 <= c < 24 for c in range(41)]  # one more, for columns that a row does not have


@pytest.mark.parametrize(
    ("name", "window"), [("none", slice(0, 96)), ("prefix", slice(32, 96)), ("dual", slice(32, 64))]
)
def test_policy_windows(name: str, window: slice) -> None:
    """`none` feeds the whole canvas, `prefix` the block and what follows it, `dual` the block."""
    assert POLICIES[name].window(slice(32, 64), 96) == window
    assert POLICIES[name].reuses == (name != "none")


def test_a_filled_first_step_costs_one_forward_per_block(mini: MiniHost, mini_prompts: Prompts) -> None:
    """A block that its first forward fills costs nothing more, under every cache."""
    for cache in ("none", "prefix", "dual"):
        [sample] = decode(mini, FixedStep(k=8), mini_prompts(1, 54), [0], DecodeSettings(32, 8, cache=cache)).samples

        assert (sample.nfe_full, sample.nfe_window) == (4, 0)
        assert sample.positions == 4 * (len(mini_prompts(1, 54)[0]) + 32)
