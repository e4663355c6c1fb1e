"""Entropy-bound, KLASS, LocalLeap, credit, Dimple and Saber against slow readings of their papers, row by row."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from feeding import feed
from slow_rules import CASES, Row, Rule, applied
from torch import Tensor

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import Decoded
from l2pd_bench.engine import decode
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.strategies.base import Context, StepView, Strategy
from l2pd_bench.strategies.credit import Credit
from l2pd_bench.strategies.dimple import Dimple
from l2pd_bench.strategies.entropy_bound import EntropyBound
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.klass import Klass
from l2pd_bench.strategies.local_leap import LocalLeap
from l2pd_bench.strategies.rules import entropy, score
from l2pd_bench.strategies.saber import Saber
from l2pd_bench.strategies.threshold import Threshold

B, N, V, L = 3, 8, 11, 20
MASK = 0
CONTEXT = Context(block_length=N, gen_length=N, mask_id=MASK, eot_id=1, vocab_size=V, tokenizer_id="t")


def observed(logits: Tensor, masked: Tensor, step: int, rows: tuple[int, ...]) -> StepView:
    """The view of these logits, on whose canvas the block comes last."""
    canvas = torch.full((len(rows), L), 5)
    canvas[:, L - N :].masked_fill_(masked, MASK)
    picked, tokens = logits.max(-1)
    confidence = (picked - logits.logsumexp(-1)).exp()
    return StepView(tokens, confidence, logits, masked, canvas, L - N, step, lambda: torch.rand(len(rows), N))


def of_row(view: StepView, i: int) -> Row:
    """Row `i` of a view, as a slow rule sees it."""
    masked = [position for position, is_masked in enumerate(view.candidates[i].tolist()) if is_masked]
    values = (x[i].tolist() for x in (view.logits, view.confidence, view.tokens))
    return Row(masked, view.tokens.shape[1], view.step, *values)


@pytest.mark.parametrize("case", CASES)
def test_rule_equals_its_slow_reading(case: str) -> None:
    """Through two blocks of 7 forwards of drifting random logits, of which the second has lost a row: the same blocks.

    One row starts empty, one partly filled, one full. The views do not obey the decisions' consequences for the
    model, which no rule may count on; the masks do.
    """
    strategy, slow = CASES[case]
    filled_at_once: set[int] = set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        select = strategy.begin(CONTEXT)
        for rows in ((0, 1, 2), (0, 2)):
            rules = [slow() for _ in rows]
            base = torch.randn(len(rows), N, V, generator=generator) * 2.5
            blocks = [[MASK if i == 0 or (i == 1 and j % 3) else 5 for j in range(N)] for i in range(len(rows))]
            for step in range(7):
                drift = (0.05, 0.3, 1.0)[seed % 3]
                base = base + torch.randn(base.shape, generator=generator) * drift
                logits = base.index_fill(-1, torch.tensor([MASK]), -torch.inf)
                masked = torch.tensor(blocks) == MASK
                view = observed(logits, masked, step, rows)
                given = {name: x.clone() for name, x in vars(view).items() if isinstance(x, Tensor)}
                decision = select(view)

                assert all(torch.equal(getattr(view, name), x) for name, x in given.items())
                tokens = view.tokens if decision.tokens is None else decision.tokens
                assert (tokens != MASK).all()
                commit = decision.commit & masked
                got = torch.where(commit, tokens, torch.tensor(blocks))
                if decision.remask is not None:
                    got = got.masked_fill(decision.remask & ~commit & masked.any(-1, keepdim=True), MASK)
                for i, block in enumerate(blocks):
                    if MASK in block:
                        change = rules[i](of_row(view, i))
                        filled_at_once.add(len(change[0]))
                        blocks[i] = applied(block, change, MASK)
                        assert blocks[i].count(MASK) < block.count(MASK)
                assert got.tolist() == blocks

    single = {"entropy-bound 0.0", "entropy-bound 0.01", "klass 0.9 0.001 2"}
    assert case in single or max(filled_at_once) > 1


@pytest.mark.parametrize(
    ("strategy", "same"),
    [
        (LocalLeap(tau=0.7, relaxed=0.7, radius=3), Threshold(tau=0.7)),
        (LocalLeap(tau=0.7, relaxed=0.1, radius=0), Threshold(tau=0.7)),
        (Credit(tau=0.7, alpha=0.0), Threshold(tau=0.7)),
        (Dimple(tau=0.7), Threshold(tau=0.7)),
        (Dimple(tau=1.0, k=2), FixedStep(k=2)),
        (Klass(tau=1.0), FixedStep(k=1)),
        (EntropyBound(gamma=0.0, order="confidence"), FixedStep(k=1)),
        (EntropyBound(gamma=0.0), FixedStep(k=1, order="entropy")),
        (EntropyBound(gamma=1e9), FixedStep(k=N)),
    ],
    ids=str,
)
def test_limits_of_the_parameters(strategy: Strategy, same: Strategy) -> None:
    """At the end of its range a rule becomes a simpler one: the threshold, one token per step, or all at once."""
    generator = torch.Generator().manual_seed(1)
    select, masked = strategy.begin(CONTEXT), torch.ones(B, N, dtype=torch.bool)
    logits = (torch.randn(B, N, V, generator=generator) * 2.5).index_fill(-1, torch.tensor([MASK]), -torch.inf)
    for step in range(4):
        view = observed(logits, masked, step, (0, 1, 2))
        commit = select(view).commit & masked

        assert torch.equal(commit, same.begin(CONTEXT)(view).commit & masked)
        masked = masked & ~commit


def with_confidence(confidence: list[float]) -> Tensor:
    """Logits (1, N, V) whose picks have these probabilities; the other tokens share the rest."""
    logits = torch.empty(1, N, V)
    for i, p in enumerate(confidence):
        logits[0, i] = math.log((1 - p) / (V - 2))
        logits[0, i, 1] = math.log(p)
    return logits.index_fill(-1, torch.tensor([MASK]), -torch.inf)


def test_saber_by_hand() -> None:
    """A block of 8 with n=2, worked out on paper: what is filled, and what is emptied again."""
    select, masked = Saber(n=2).begin(CONTEXT), torch.ones(1, N, dtype=torch.bool)
    standing = []
    for step, confidence in enumerate(
        [
            [0.90, 0.60, 0.50, 0.40, 0.30, 0.30, 0.30, 0.30],  # tau 1: 0 and 1; of them 1 has the lower confidence
            [0.90, 0.80, 0.80, 0.78, 0.50, 0.30, 0.30, 0.30],  # tau (.9 + .6) / 2: 1, 2, 3; 0 has gained least
            [0.83, 0.50, 0.80, 0.78, 0.70, 0.30, 0.30, 0.30],  # tau (.9 + .8 + .8 + .78) / 4: 0, and 4 as n=2; 1 sank
            [0.20, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99],  # tau .782: all that is left; so 0 may sink
        ]
    ):
        decision = select(observed(with_confidence(confidence), masked, step, (0,)))
        assert decision.remask is not None
        masked = (masked & ~decision.commit) | decision.remask
        standing.append([i for i in range(N) if not masked[0, i]])

    assert standing == [[0], [1, 2, 3], [0, 2, 3, 4], list(range(N))]


def test_shared_entropy_is_in_nats() -> None:
    """A uniform choice of 4 has log 4 nats, a certain one exactly 0, and the order by entropy is its negative."""
    logits = torch.full((B, N, V), -torch.inf)
    logits[..., 1:5] = 0.3
    logits[:, 0, 2:] = -torch.inf
    view = observed(logits, torch.ones(B, N, dtype=torch.bool), 0, (0, 1, 2))

    assert entropy(logits)[:, 0].tolist() == [0.0] * B
    torch.testing.assert_close(entropy(logits)[:, 1:], torch.full((B, N - 1), math.log(4)))
    assert torch.equal(score(view, "entropy"), -entropy(logits))


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        *((EntropyBound, {"gamma": x}) for x in (-0.1, math.nan, math.inf)),
        *((EntropyBound, {"order": x}) for x in ("random", "")),
        *((kind, {"tau": x}) for kind in (Klass, LocalLeap, Credit, Dimple) for x in (-0.1, 1.1, math.nan)),
        *((Klass, {"kl": x}) for x in (0.0, -1.0, math.nan, math.inf)),
        (Klass, {"history": 0}),
        *((LocalLeap, {"relaxed": x}) for x in (-0.1, 0.95, math.nan)),
        (LocalLeap, {"radius": -1}),
        *((Credit, {"alpha": x}) for x in (-0.1, math.nan, math.inf)),
        *((Credit, {"beta": x}) for x in (-0.1, 1.1, math.nan)),
        *((Credit, {"gamma": x}) for x in (-0.1, math.nan, math.inf)),
        (Dimple, {"k": 0}),
        (Dimple, {"order": "confidense"}),
        (Saber, {"n": 0}),
    ],
)
def test_bad_parameters_are_refused(kind: type[Any], params: dict[str, Any]) -> None:
    """A hyper-parameter outside its range raises ValueError that names it and says what was got."""
    ((name, value),) = params.items()
    with pytest.raises(ValueError, match=rf"^{name}: got {value!r}, expected ."):
        kind(**params)


def slow_decode(host: Host, prompt: list[int], slow: Callable[[], Rule], gen: int, block: int) -> tuple[list[int], int]:
    """One row, the whole canvas in every forward: generated ids, and the number of forwards."""
    canvas, nfe = [*prompt, *[host.mask_id] * gen], 0
    session = host.open([0], len(canvas), cached=False)
    for start in range(len(prompt), len(canvas), block):
        rule, step, at = slow(), 0, slice(start, start + block)
        while host.mask_id in canvas[at]:
            logits = feed(session, torch.tensor([canvas]), 0, at, lengths=[len(canvas)]).float()
            logits[..., host.mask_id] = -torch.inf
            picked, tokens = logits.max(-1)
            confidence = (picked - logits.logsumexp(-1)).exp()[0].tolist()
            masked = [i for i, token in enumerate(canvas[at]) if token == host.mask_id]
            row = Row(masked, block, step, logits[0].tolist(), confidence, tokens[0].tolist())
            canvas[at] = applied(canvas[at], rule(row), host.mask_id)
            nfe, step = nfe + 1, step + 1
    return canvas[len(prompt) :], nfe


def lists(analytic: AnalyticHost, count: int, kinds: Sequence[str]) -> list[list[int]]:
    """Prompts of the analytic host: 2 to 5 letters (and the new one)."""
    rng = random.Random(3)
    return [
        analytic.encode(" ".join([kind, *rng.sample("abcdefghij", rng.randint(2, 5) + (kind == "replace"))]))
        for kind, _ in zip(list(kinds) * count, range(count), strict=False)
    ]


@pytest.mark.parametrize("case", CASES)
def test_analytic_equals_slow_decoder(case: str, analytic: AnalyticHost) -> None:
    """On exact marginals, 18 prompts in batches of 3, 16 tokens in blocks of 8: the slow decoder's ids and forwards."""
    strategy, slow = CASES[case]
    prompts = lists(analytic, 18, ("copy", "shuffle", "replace"))
    for i in range(0, len(prompts), 3):
        batch = prompts[i : i + 3]
        got = decode(analytic, strategy, batch, [0] * 3, DecodeSettings(gen_length=16, block_length=8)).samples
        for prompt, sample in zip(batch, got, strict=True):
            assert (sample.output_ids, sample.nfe_full) == slow_decode(analytic, prompt, slow, 16, 8)
            assert sample.forced_commits == 0


@pytest.mark.parametrize(
    ("strategy", "kind", "forwards"),
    [
        (EntropyBound(gamma=0.0), "shuffle", 5),  # every letter has entropy until the last
        (EntropyBound(gamma=0.0), "copy", 1),  # none has any
        (EntropyBound(gamma=0.0), "replace", 5),
        (EntropyBound(gamma=1e9), "shuffle", 1),
        (EntropyBound(gamma=1e9), "replace", 1),
        (Klass(), "copy", 3),  # one, one, and then two divergences of 0 are known
        (Klass(history=1), "copy", 2),
        (LocalLeap(), "copy", 1),
        (Credit(), "copy", 1),
        (Dimple(), "copy", 1),
        (Dimple(k=2), "shuffle", 3),  # 2, 2, 1: no letter is sure before the last
        (Saber(n=1), "copy", 5),  # certainty never exceeds its own mean
        (Saber(n=2), "copy", 4),  # two filled, one given back: 1, 2, 3, and then the last two stay
    ],
    ids=str,
)
def test_forwards_in_closed_form(strategy: Strategy, kind: str, forwards: int, analytic: AnalyticHost) -> None:
    """Five letters in a block of five take as many forwards as the definition says."""
    letters = "abcdef" if kind == "replace" else "abcde"
    prompt = analytic.encode(" ".join([kind, *letters]))
    (sample,) = decode(analytic, strategy, [prompt], [0], DecodeSettings(gen_length=5, block_length=5)).samples

    assert sample.nfe_full == forwards


ON_MINI: list[Strategy] = [
    EntropyBound(),
    EntropyBound(gamma=1.0, order="margin"),
    Klass(),
    Klass(tau=0.1, kl=1.0, history=1),
    LocalLeap(),
    LocalLeap(tau=0.5, relaxed=0.2, radius=2),
    Credit(),
    Credit(tau=0.5, alpha=3.0, beta=1.0, gamma=1.0),
    Dimple(),
    Dimple(k=4, order="random"),
    *(Saber(n=n) for n in (1, 2, 3, 7)),
]
Prompts = Callable[[int, int], list[list[int]]]


@pytest.mark.parametrize(("cache", "temperature"), [("none", 0.0), ("dual", 0.7)])
@pytest.mark.parametrize("strategy", ON_MINI, ids=str)
def test_ends_and_is_independent_of_the_batch(
    strategy: Strategy, cache: str, temperature: float, mini: MiniHost, mini_prompts: Prompts
) -> None:
    """On the trained model every decode ends, each forward gains a token, and a row is the same alone as beside two."""
    settings = DecodeSettings(gen_length=32, block_length=16, cache=cache, eot="stop", temperature=temperature)
    prompts = mini_prompts(3, 5)
    together = decode(mini, strategy, prompts, [7, 8, 9], settings).samples
    alone: list[Decoded] = []
    for prompt, seed in zip(prompts, (7, 8, 9), strict=True):
        alone += decode(mini, strategy, [prompt], [seed], settings).samples

    assert together == alone
    for sample in together:
        assert mini.mask_id not in sample.output_ids
        assert sample.nfe_full + sample.nfe_window <= 32
        assert sample.forced_commits == 0


@pytest.mark.parametrize("strategy", ON_MINI, ids=str)
def test_a_second_batch_starts_anew(strategy: Strategy, mini: MiniHost, mini_prompts: Prompts) -> None:
    """One instance decodes the same batch twice with the same outcome: it remembers nothing from batch to batch."""
    settings = DecodeSettings(gen_length=32, block_length=16, cache="dual")
    first, other = mini_prompts(4, 6)[:2], mini_prompts(4, 6)[2:]
    outcomes = [decode(mini, strategy, prompts, [1, 2], settings).samples for prompts in (first, other, first)]

    assert outcomes[0] == outcomes[2]
