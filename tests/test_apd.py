"""APD against slow readings of its paper and of its released code, and exact probabilities."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from drafts import MASK, Given, decide, gumbel, random_logits, view_of
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_strategy
from l2pd_bench.strategies.apd import Apd
from l2pd_bench.strategies.base import Frontier

FILLED = 5  # a token that stands in a block already


def slow_row(strategy: Apd, host: Tensor, scorer: Tensor, noise: Tensor | None, t: float, block: list[int]) -> Any:
    """Algorithm 1, or what the released code makes of it, for one row: draft and number of tokens to commit."""

    def most_likely(values: list[float]) -> int:
        return max(range(len(values)), key=lambda v: values[v])

    draft, accepted, running = list(block), 0, True
    for j in [j for j, token in enumerate(block) if token == MASK]:
        own = host[j].tolist()
        mixed = [
            (strategy.R * a if strategy.R else 0.0) + ((1 - strategy.R) * b if strategy.R < 1 else 0.0)
            for a, b in zip(own, scorer[j].tolist(), strict=True)
        ]
        if noise is None:
            draft[j], pick = most_likely(own), most_likely(mixed)
        elif strategy.variant == "paper":
            g = noise[j].tolist()
            draft[j] = most_likely([a / t + x for a, x in zip(own, g, strict=True)])
            pick = most_likely([a / t + x for a, x in zip(mixed, g, strict=True)])
        else:
            g = noise[j].tolist()
            draft[j] = most_likely([a / t + t * x for a, x in zip(own, g, strict=True)])
            pick = most_likely(mixed)
        running = accepted == 0 or (running and pick == draft[j])
        accepted += running
    return draft, accepted


@pytest.mark.parametrize("temperature", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_rule_equals_its_slow_reading(variant: str, temperature: float) -> None:
    """Drafts, what is judged and what is committed are those of a loop over positions, in every row of a mixed batch.

    One row is empty, one filled up to its third position, one full, one cut off behind its fifth. The view is not
    written to, and each row is decided as it would be alone.
    """
    b, n, v = 4, 8, 11
    several = 0
    for seed, r in itertools.product(range(20), (0.0, 0.3, 0.5, 0.7, 1.0)):
        strategy = Apd(R=r, variant=variant)
        host = random_logits((b, n, v), seed)
        scorer = random_logits((b, n, v), seed + 1000, 0.4) + 0.8 * host
        scorer[..., MASK], scorer[..., v - 1] = -math.inf, -math.inf  # an id that the scorer does not know
        noise = gumbel((b, n, v), seed) if temperature else None
        canvas = torch.full((b, 3 + n), FILLED)
        canvas[0, 3:], canvas[1, 6:], canvas[3, 3:8], canvas[3, 8:] = MASK, MASK, MASK, -1
        view = view_of(host, noise, temperature, canvas)
        before = {name: x.clone() for name, x in vars(view).items() if isinstance(x, Tensor)}
        given = Given(scorer)
        decision = decide(strategy, view, given, temperature)

        assert all(torch.equal(getattr(view, name), x) for name, x in before.items())
        tokens = view.tokens if decision.tokens is None else decision.tokens
        for row in range(b):
            block = canvas[row, 3:].tolist()
            draft, count = slow_row(
                strategy, host[row], scorer[row], None if noise is None else noise[row], temperature, block
            )
            masks = [j for j, token in enumerate(block) if token == MASK]
            several += count > 1
            assert given.judged[0][row].tolist() == draft
            assert decision.commit[row].nonzero()[:, 0].tolist() == masks[:count]
            assert tokens[row][masks].tolist() == [draft[j] for j in masks]
            only = slice(row, row + 1)
            alone = replace(view, **{name: x[only] for name, x in before.items()})
            if noise is not None:
                alone = replace(alone, gumbel=lambda x=noise[only]: x)
            assert torch.equal(
                decide(strategy, alone, Given(scorer[only]), temperature).commit[0], decision.commit[row]
            )
    assert several > 50


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_full_trust_commits_everything_drafted(temperature: float) -> None:
    """R=1 commits every candidate, with the model's own picks, whatever the scorer says."""
    noise = gumbel((16, 32, 50), 0) if temperature else None
    view = view_of(random_logits((16, 32, 50), 1), noise, temperature)
    decision = decide(Apd(R=1.0), view, Given(random_logits((16, 32, 50), 2)), temperature)

    assert bool(decision.commit.all())
    assert decision.tokens is None


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_no_trust_accepts_the_scorers_own_samples(temperature: float) -> None:
    """At R=0 a draft after the first counts exactly when the scorer's sample under the same noise is that token."""
    shape = (4000, 2, 20)
    host, scorer = random_logits(shape, 1), random_logits(shape, 2)
    noise = gumbel(shape, 0) if temperature else None
    view = view_of(host, noise, temperature)
    own = scorer.argmax(-1) if noise is None else (scorer / temperature + noise).argmax(-1)
    commit = decide(Apd(R=0.0), view, Given(scorer), temperature).commit

    assert bool(commit[:, 0].all())
    assert torch.equal(commit[:, 1], view.tokens[:, 1] == own[:, 1])
    assert 0.02 < float(commit[:, 1].float().mean()) < 0.98


def coupled(p: Tensor, q: Tensor) -> float:
    """Probability that two Gumbel-max picks agree under the same noise, from logits (V,): exact.

    Both pick v if its noise exceeds every other's by the larger of the two leads, which has
    the probability of v under the softmax of those leads; v runs over the vocabulary.
    """
    total = 0.0
    for v in range(len(p)):
        leads = torch.maximum(p - p[v], q - q[v])
        total += 1 / float(leads.double().exp().sum())
    return total


def rate(strategy: Apd, host: Tensor, scorer: Tensor, temperature: float, tries: int, *, fresh: bool = False) -> float:
    """Share of second positions accepted, `tries` times with logits (V,); `fresh`: other noise than the drafts'."""
    shape = (tries, 2, len(host))
    noise = gumbel(shape, 7)
    view = view_of(host.expand(shape), noise, temperature)
    if fresh:
        view = replace(view, gumbel=lambda: gumbel(shape, 8))
    commit = decide(strategy, view, Given(scorer.expand(shape)), temperature).commit
    return float(commit[:, 1].float().mean())


@pytest.mark.parametrize("r", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_acceptance_is_the_coupling_probability(r: float, temperature: float) -> None:
    """The share of accepted drafts equals the enumerated probability that draft and target agree, for every R."""
    host, scorer = torch.tensor([-math.inf, 1.0, 0.2, -0.5, 0.7]), torch.tensor([-math.inf, -0.4, 1.1, 0.3, 0.6])
    target = scorer[1:] * (1 - r) + host[1:] * r
    wanted = coupled(host[1:] / temperature, target / temperature)
    got = rate(Apd(R=r), host, scorer, temperature, 40_000)

    assert abs(got - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / 40_000) + 1e-6
    assert (r == 1.0) == (wanted > 1 - 1e-6)


def test_the_formula_for_coupling_agrees_with_the_logistic() -> None:
    """For two tokens the difference of the noises is logistic: both picks are the first below one bound of it.

    And both are the second above another bound; in between they differ.
    """
    p, q = torch.tensor([0.0, 0.4]), torch.tensor([0.0, -1.3])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert coupled(p, q) == pytest.approx(sigmoid(-0.4) + 1 - sigmoid(1.3), abs=1e-6)


def test_shared_noise_is_what_makes_it_work() -> None:
    """Two 1000-way distributions 0.24 apart: 70 % accepted under the drafts' noise, 1 % under fresh noise.

    That contrast is the point of the paper's section on coupling; total variation bounds the disagreement by twice
    itself.
    """
    host = random_logits((1000,), 3, 1.44)
    scorer = host + 0.61 * random_logits((1000,), 4, 1.0).nan_to_num(neginf=0.0)
    p, q = host.double().softmax(-1), scorer.double().softmax(-1)
    distance = float((p - q).abs().sum()) / 2
    shared = rate(Apd(R=0.0), host, scorer, 1.0, 4000)
    fresh = rate(Apd(R=0.0), host, scorer, 1.0, 4000, fresh=True)

    assert distance == pytest.approx(0.24, abs=0.02)
    assert shared == pytest.approx(0.70, abs=0.03)
    assert shared == pytest.approx(coupled(host[1:], scorer[1:]), abs=0.03)
    assert shared >= 1 - 2 * distance
    assert fresh == pytest.approx(float((p * q).sum()), abs=0.005)
    assert fresh == pytest.approx(0.01, abs=0.005)


def test_released_drafts_are_samples_at_the_square_of_the_temperature() -> None:
    """In the released variant drafts are draws from softmax(logits / T²), and no noise reaches the target."""
    t, tries = 0.6, 40_000
    host = torch.tensor([-math.inf, 1.0, 0.6, 0.1])
    scorer = torch.tensor([-math.inf, 0.0, 0.9, 0.5])
    noise = gumbel((tries, 2, 4), 0)
    strategy = Apd(R=0.0, variant="release")
    decision = decide(strategy, view_of(host.expand(tries, 2, 4), noise, t), Given(scorer.expand(tries, 2, 4)), t)
    assert decision.tokens is not None
    shares = [float((decision.tokens == v).float().mean()) for v in range(4)]

    assert shares == pytest.approx((host / t**2).softmax(-1).tolist(), abs=0.01)
    assert torch.equal(decision.commit[:, 1], decision.tokens[:, 1] == 2)


def test_variants_are_one_when_greedy() -> None:
    """Without a temperature the released code and the paper decide the same."""
    host, scorer = random_logits((50, 8, 11), 0), random_logits((50, 8, 11), 1, 0.5)
    scorer = (scorer + host).nan_to_num(neginf=-math.inf)
    paper, release = (
        decide(Apd(R=0.4, variant=v), view_of(host, None, 0.0), Given(scorer), 0.0) for v in ("paper", "release")
    )

    assert torch.equal(paper.commit, release.commit)
    assert paper.tokens is None and release.tokens is None


@pytest.mark.parametrize(
    "strategy", [Apd(), Apd(R=0.0), Apd(R=1.0), Apd(variant="release"), Apd(schedule="native")], ids=str
)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_runs_on_meta(strategy: Apd, temperature: float) -> None:
    """Nothing is read on the host: the rule runs where tensors hold no data, also on a canvas that was cut short."""
    logits = torch.empty(3, 8, 11, device="meta")
    view = replace(
        view_of(random_logits((3, 8, 11), 0), None, 0.0),
        tokens=torch.empty(3, 8, dtype=torch.int64, device="meta"),
        logits=logits,
        candidates=torch.empty(3, 8, dtype=torch.bool, device="meta"),
        canvas=torch.empty(3, 6, dtype=torch.int64, device="meta"),
        gumbel=(lambda: torch.empty(3, 8, 11, device="meta")) if temperature else None,
    )
    commit = decide(strategy, view, Given(logits), temperature).commit

    assert (commit.device.type, commit.dtype, commit.shape) == ("meta", torch.bool, (3, 8))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        *(({"R": x}, rf"R: got {x}, expected a weight in \[0, 1\]") for x in (-0.1, 1.5, math.nan, math.inf)),
        ({"W": 0}, "W: got 0, expected at least 1 column, or none"),
        ({"M": 0}, "M: got 0, expected at least 1 mask, or none"),
        ({"W": 32}, "W: got 32, expected schedule=native with it"),
        ({"M": None}, "M: got None, expected schedule=native with it"),
        ({"variant": "papr"}, "variant: got 'papr', expected one of paper, release"),
        ({"schedule": "blocks"}, "schedule: got 'blocks', expected one of block, native"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    """A hyper-parameter out of range, or without an effect, is named with what was got and what is expected."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Apd(**params)


def test_what_the_command_line_says_of_a_bad_weight() -> None:
    """R outside [0, 1] on the command line is a usage error that names strategy and parameter."""
    with pytest.raises(UsageError, match=r"strategy 'apd': R: got 1\.5, expected a weight in \[0, 1\]"):
        load_strategy("apd:R=1.5")


def test_schedules() -> None:
    """The native schedule hands window and lookahead to the engine; the block schedule leaves all to it."""
    native, _ = load_strategy("apd:schedule=native,W=none,M=7")

    assert Apd().frontier() is None
    assert Apd(schedule="native").frontier() == Frontier(16, 100)
    assert native.frontier() == Frontier(None, 7)
