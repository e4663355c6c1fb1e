"""The built-in strategies and their mask idioms: no host reads, checked parameters, sorting as numpy sorts."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from l2pd_bench.strategies.base import Context, Decision, StepView, Strategy
from l2pd_bench.strategies.credit import Credit
from l2pd_bench.strategies.dimple import Dimple
from l2pd_bench.strategies.entropy_bound import PROXIES, EntropyBound
from l2pd_bench.strategies.factor import Factor
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.klass import Klass
from l2pd_bench.strategies.local_leap import LocalLeap
from l2pd_bench.strategies.rules import ORDERS, best, rank, score
from l2pd_bench.strategies.saber import Saber
from l2pd_bench.strategies.threshold import Threshold

B, N, V, L = 3, 8, 11, 20
MASK = 0
BUILT_IN: list[Strategy] = [
    *(FixedStep(k=k, order=order) for k in (1, 3, 8, 40) for order in ORDERS),
    *(Threshold(tau=tau) for tau in (0.0, 0.5, 0.9, 1.0)),
    *(Factor(factor=f, compat=compat) for f in (0.0, 0.7, 1.0, 1.9) for compat in (False, True)),
    *(EntropyBound(gamma=gamma, order=order) for gamma in (0.0, 2.0, 1e9) for order in PROXIES),
    *(Klass(tau=tau, kl=kl, history=history) for tau, kl, history in ((0.6, 0.015, 2), (0.1, 9.0, 1))),
    *(LocalLeap(tau=tau, relaxed=0.2, radius=radius) for tau in (0.3, 0.9) for radius in (0, 4, 40)),
    *(Credit(tau=tau) for tau in (0.0, 0.3, 0.9)),
    *(Dimple(tau=0.3, k=k, order=order) for k in (1, 3) for order in ORDERS),
    *(Saber(n=n) for n in (1, 2, 5, 40)),
]


def view(device: str, step: int = 0, seed: int = 0) -> StepView:
    """A view of random logits; row 0 is untouched, row 1 partly filled, row 2 full."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, N, V, generator=generator)
    logits[..., MASK] = -torch.inf
    candidates = torch.ones(B, N, dtype=torch.bool)
    candidates[1] = torch.arange(N) % 3 == 1
    candidates[2] = False
    probability, tokens = logits.softmax(-1).max(-1)
    uniform = torch.rand(B, N, generator=generator)
    canvas = torch.full((B, L), 5)
    canvas[:, L - N :].masked_fill_(candidates, MASK)
    return StepView(
        tokens=tokens.to(device),
        confidence=probability.to(device),
        logits=logits.to(device),
        candidates=candidates.to(device),
        canvas=canvas.to(device),
        start=L - N,
        step=step,
        uniform=lambda: uniform.to(device),
    )


CONTEXT = Context(block_length=N, gen_length=N, mask_id=MASK, eot_id=1, vocab_size=V, tokenizer_id="t")


def apply(decision: Decision, seen: StepView) -> Tensor:
    """The block after the decision, by mask arithmetic."""
    tokens = seen.tokens if decision.tokens is None else decision.tokens
    block = torch.where(decision.commit & seen.candidates, tokens, seen.canvas[:, seen.start :])
    if decision.remask is not None:
        block = block.masked_fill(decision.remask & ~decision.commit, MASK)
    return block


@pytest.mark.parametrize("strategy", BUILT_IN, ids=str)
def test_runs_on_meta(strategy: Strategy) -> None:
    """Every strategy runs for three steps on the meta device, where any read of a tensor raises."""
    select = strategy.begin(CONTEXT)
    for step in range(3):
        seen = view("meta", step)
        decision = select(seen)

        assert decision.commit.dtype == torch.bool
        assert decision.commit.shape == (B, N)
        assert apply(decision, seen).device.type == "meta"


@pytest.mark.parametrize("strategy", BUILT_IN, ids=str)
def test_commits_in_every_open_row_and_leaves_the_view_alone(strategy: Strategy) -> None:
    """A built-in needs no forced commit: it fills at least one candidate of every open row, and writes to no input."""
    select = strategy.begin(CONTEXT)
    for step in range(min(3, N // getattr(strategy, "k", 1))):
        seen, fresh = view("cpu", step, seed=step), view("cpu", step, seed=step)
        commit = select(seen).commit & fresh.candidates

        assert commit.any(-1).tolist() == [True, True, False]
        for name in ("tokens", "confidence", "logits", "candidates", "canvas"):
            assert torch.equal(getattr(seen, name), getattr(fresh, name))


@pytest.mark.parametrize("strategy", BUILT_IN, ids=str)
def test_rows_are_independent(strategy: Strategy) -> None:
    """Each row is decided as it would be alone."""
    seen = view("cpu")
    together = strategy.begin(CONTEXT)(seen).commit & seen.candidates
    for row in range(B):
        only = slice(row, row + 1)
        tensors: dict[str, Any] = {name: x[only] for name, x in vars(seen).items() if isinstance(x, Tensor)}
        alone = replace(seen, **tensors, uniform=functools.partial(torch.clone, seen.uniform()[only]))

        assert torch.equal(strategy.begin(CONTEXT)(alone).commit & alone.candidates, together[only])


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (FixedStep, {"k": 0}),
        (FixedStep, {"k": -3}),
        (FixedStep, {"order": "confidense"}),
        (FixedStep, {"order": ""}),
        (Threshold, {"tau": -0.1}),
        (Threshold, {"tau": 1.1}),
        (Threshold, {"tau": float("nan")}),
        (Threshold, {"tau": float("inf")}),
        (Factor, {"factor": -0.5}),
        (Factor, {"factor": float("nan")}),
        (Factor, {"factor": float("inf")}),
    ],
)
def test_bad_parameters_are_refused(kind: type[Any], params: dict[str, Any]) -> None:
    """A hyper-parameter outside its range raises ValueError that names it and says what was got."""
    (name, value) = next(iter(params.items()))
    with pytest.raises(ValueError, match=rf"{name}: got '?{value}'?.*expected"):
        kind(**params)


def numpy_rank(score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Places by (candidates first, best score first, lowest position first)."""
    places = np.empty(score.shape, dtype=np.int64)
    for row in range(len(score)):
        order = np.lexsort((np.arange(score.shape[1]), -score[row], ~among[row]))
        places[row, order] = np.arange(score.shape[1])
    return places


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_rank_equals_numpy(levels: int, seed: int) -> None:
    """`rank` sorts as numpy's lexsort does, ties to the lowest position, outsiders last."""
    rng = np.random.default_rng(seed)
    score = (rng.integers(levels, size=(20, 33)) / levels - 0.5).astype(np.float32)
    among = rng.random((20, 33)) < rng.random((20, 1))
    got = rank(torch.from_numpy(score), torch.from_numpy(among)).numpy()
    wanted = numpy_rank(score, among)

    assert (got[among] == wanted[among]).all()
    assert (np.sort(got, -1) == np.arange(33)).all()
    assert (got[~among] >= np.broadcast_to(among.sum(-1, keepdims=True), among.shape)[~among]).all()


@pytest.mark.parametrize("k", [0, 1, 2, 7, 33, 50])
@pytest.mark.parametrize("levels", [2, 1000])
def test_best_equals_numpy(k: int, levels: int) -> None:
    """`best` takes the k best of each row, the lowest positions among equals, all of them if there are fewer."""
    rng = np.random.default_rng(k)
    score = (rng.integers(levels, size=(40, 33)) / levels - 0.5).astype(np.float32)
    among = rng.random((40, 33)) < rng.random((40, 1))
    among[0] = False
    got = best(torch.from_numpy(score), torch.from_numpy(among), k).numpy()

    assert (got == (among & (numpy_rank(score, among) < k))).all()
    assert (got.sum(-1) == np.minimum(among.sum(-1), k)).all()


@pytest.mark.parametrize("k", [1, 2])
def test_a_score_of_minus_infinity_is_still_a_candidates(k: int) -> None:
    """A candidate with score -inf comes after the other candidates, and before every outsider."""
    score = torch.tensor([[5.0, -torch.inf, 3.0, -torch.inf]])
    among = torch.tensor([[False, True, False, True]])

    assert rank(score, among)[0, [1, 3]].tolist() == [0, 1]
    assert best(score, among, k)[0].tolist() == [False, True, False, k == 2]


def test_scores_equal_numpy() -> None:
    """Confidence, margin p(1) - p(2), sum of p log p, minus the position: as numpy computes them, in float64."""
    seen = view("cpu")
    p = np.exp(seen.logits.double().numpy())
    p /= p.sum(-1, keepdims=True)
    first, second = np.sort(p, -1)[..., -1], np.sort(p, -1)[..., -2]
    wanted = {
        "confidence": first,
        "margin": first - second,
        "entropy": np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1),
        "left-to-right": np.broadcast_to(-np.arange(float(N)), (B, N)),
        "random": seen.uniform().numpy(),
    }

    assert set(wanted) == set(ORDERS)
    for order, values in wanted.items():
        got = score(seen, order)
        assert got.dtype == torch.float32
        assert got.shape == (B, N)
        np.testing.assert_allclose(got.numpy(), values, atol=1e-6)
    ranks = {tuple(rank(score(seen, order), torch.ones(B, N, dtype=torch.bool))[0].tolist()) for order in ORDERS}
    assert len(ranks) == len(ORDERS)  # on these logits no two orders agree


def test_quota_fills_the_block_with_extras_first() -> None:
    """For every k and length up to 40: the quotas sum to the block, never exceed k, and never grow."""
    for k in range(1, 41):
        for length in range(1, 41):
            steps = -(-length // k)
            quotas = [FixedStep(k=k).quota(step, length) for step in range(steps)]

            assert sum(quotas) == length
            assert max(quotas) <= k
            assert quotas == sorted(quotas, reverse=True)
            assert quotas[0] - quotas[-1] <= 1
            assert quotas[-1] >= 1


def test_threshold_includes_its_bound() -> None:
    """A confidence equal to tau is committed, one below it is not."""
    seen = view("cpu")
    confidence = torch.tensor([[0.5, 0.49999997, 0.9, 0.5, 0.1, 0.2, 0.3, 0.50000006]]).expand(B, -1)
    seen = replace(seen, confidence=confidence)
    commit = Threshold(tau=0.5).select(seen).commit & seen.candidates

    assert commit[0].tolist() == [True, False, True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("confidence", "spec", "compat"),
    [
        ([0.1] * 8, 1, 1),
        ([0.99, 0.7, 0.76, 0.2, 0.2, 0.2, 0.2, 0.2], 2, 2),  # sorted .99 .76 .7: th(2) = .667, th(3) = .75
        ([0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.5], 7, 8),  # only the last fails
        ([0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.6, 0.5], 6, 6),  # the last two fail
        ([0.99] * 8, 8, 8),
    ],
)
def test_factor_takes_the_longest_prefix(confidence: list[float], spec: int, compat: int) -> None:
    """Worked examples of th(n) = 1 - f / (n + 1), and of the released code's off-by-one."""
    seen = replace(view("cpu"), confidence=torch.tensor([confidence]).expand(B, -1))

    assert int((Factor(factor=1.0).select(seen).commit & seen.candidates)[0].sum()) == spec
    assert int((Factor(factor=1.0, compat=True).select(seen).commit & seen.candidates)[0].sum()) == compat


@pytest.mark.parametrize("count", [1, 2])
def test_factor_compat_fills_the_last_pair(count: int) -> None:
    """With one candidate left both fill it; with two unsure ones the rule fills one, the released code both."""
    candidates = torch.arange(N).expand(B, -1) < count
    confidence = torch.full((B, N), 0.2)
    seen = replace(view("cpu"), confidence=confidence, candidates=candidates)

    assert (Factor().select(seen).commit & candidates).sum(-1).tolist() == [1] * B
    assert (Factor(compat=True).select(seen).commit & candidates).sum(-1).tolist() == [count] * B
