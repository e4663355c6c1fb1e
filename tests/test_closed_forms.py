"""On exact marginals, strategies lose what ParallelBench's closed forms (arXiv 2510.04767, section 3) say they lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.strategies.apd import Apd
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.strategies.entropy_bound import EntropyBound
from l2pd_bench.strategies.factor import Factor
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.rules import ORDERS
from l2pd_bench.strategies.threshold import Threshold
from l2pd_bench.tasks.analytic import LETTERS, AnalyticCopy, AnalyticReplace, AnalyticShuffle
from l2pd_bench.tasks.base import Task

N = LETTERS
LINE = DecodeSettings(gen_length=N, block_length=N)  # the answer and nothing else
SAMPLED = DecodeSettings(gen_length=N, block_length=N, temperature=1.0)
REPEATS = 4


def grades(
    host: AnalyticHost, task: Task, strategy: Strategy, settings: DecodeSettings, repeats: int = 1
) -> list[bool]:
    """Whether each of the task's 200 items, `repeats` times with other seeds, was answered rightly."""
    result = []
    items = task.items()
    for repeat in range(repeats):
        prompts = [host.encode(item.prompt) for item in items]
        seeds = [repeat * len(items) + i for i in range(len(items))]
        for item, sample in zip(items, decode(host, strategy, prompts, seeds, settings).samples, strict=True):
            ids = sample.output_ids
            text = host.decode(ids[: ids.index(host.eot_id)] if host.eot_id in ids else ids)
            result.append(task.grade(item, text).correct)
    return result


def assert_rate(right: Sequence[bool], p: float) -> None:
    """The share of right answers is `p` within four standard errors, and exactly `p` if that is 0 or 1."""
    share = sum(right) / len(right)
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / len(right)), f"measured {share}, closed form {p}"


def shuffle_accuracy(n: int, k: int) -> float:
    """Product over the steps of P(m, k) / m^k, with m positions left."""
    result: float = math.prod(math.perm(m, min(k, m)) / m ** min(k, m) for m in range(n, 0, -k))
    return result


def replace_accuracy(m: int, k: int) -> float:
    """With m masks left: exactly one of k positions draws the new token (1/m each), or none does and one does later."""
    if m == 0:
        return 0.0
    k = min(k, m)
    one = k * (1 / m) * (1 - 1 / m) ** (k - 1)
    return one + (1 - 1 / m) ** k * replace_accuracy(m - k, k)


def test_formulas_agree_with_the_paper() -> None:
    """The formulas of this file give the special cases that the paper spells out."""
    assert shuffle_accuracy(N, 1) == 1
    assert shuffle_accuracy(N, 2) == pytest.approx(5 * 3 * 1 / (6 * 4 * 2))
    assert shuffle_accuracy(N, N) == pytest.approx(math.factorial(N) / N**N)
    assert replace_accuracy(N, 1) == pytest.approx(1)
    assert replace_accuracy(N, N) == pytest.approx(((N - 1) / N) ** (N - 1))


@pytest.mark.parametrize("order", ["confidence", "left-to-right", "random"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 8])
def test_shuffle_loses_with_every_parallel_token(k: int, order: str, analytic: AnalyticHost) -> None:
    """Shuffle at temperature 1, k tokens per step, in any order: the product formula."""
    right = grades(analytic, AnalyticShuffle(), FixedStep(k=k, order=order), SAMPLED, REPEATS)

    assert_rate(right, shuffle_accuracy(N, k))


@pytest.mark.parametrize("order", ["left-to-right", "random"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 8])
def test_replace_loses_with_every_parallel_token(k: int, order: str, analytic: AnalyticHost) -> None:
    """Replace at temperature 1, k tokens per step, in an order that ignores the draws; one-shot is ((n-1)/n)^(n-1)."""
    right = grades(analytic, AnalyticReplace(), FixedStep(k=k, order=order), SAMPLED, REPEATS)

    assert_rate(right, replace_accuracy(N, k))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "strategy",
    [
        *(FixedStep(k=k, order=order) for k in (1, 4, 32) for order in ORDERS),
        Threshold(),
        Factor(),
        Factor(compat=True),
    ],
    ids=str,
)
def test_copy_loses_nothing(strategy: Strategy, temperature: float, analytic: AnalyticHost) -> None:
    """Copy is right under every strategy, at any speed, on the task's own canvas."""
    settings = DecodeSettings(gen_length=AnalyticCopy.gen_length, block_length=16, temperature=temperature)
    settings = settings if isinstance(strategy, FixedStep) and strategy.k > 1 else LINE

    assert all(grades(analytic, AnalyticCopy(), strategy, settings))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tau", [0.51, 0.9, 1.0])
def test_threshold_above_half_is_right_on_shuffle(tau: float, temperature: float, analytic: AnalyticHost) -> None:
    """Shuffle under a threshold above 1/2 fills one token at a time, and is right."""
    settings = DecodeSettings(N, N, temperature=temperature)

    assert all(grades(analytic, AnalyticShuffle(), Threshold(tau=tau), settings))


def test_threshold_below_half_fills_the_last_two_at_once(analytic: AnalyticHost) -> None:
    """Shuffle under a threshold between 1/3 and 1/2: greedy is always wrong, sampling right half of the time."""
    assert not any(grades(analytic, AnalyticShuffle(), Threshold(tau=0.45), LINE))
    assert_rate(grades(analytic, AnalyticShuffle(), Threshold(tau=0.45), SAMPLED, REPEATS), 0.5)


@pytest.mark.parametrize(("tau", "right"), [(0.84, True), (0.95, True), (0.82, False), (0.3, False)])
def test_threshold_on_replace_is_all_or_nothing(tau: float, right: bool, analytic: AnalyticHost) -> None:
    """Greedy replace is right if the threshold is above (n-1)/n, and otherwise replaces nothing."""
    assert set(grades(analytic, AnalyticReplace(), Threshold(tau=tau), LINE)) == {right}


def test_sampled_replace_under_a_high_threshold_is_right(analytic: AnalyticHost) -> None:
    """Replace at temperature 1 with a threshold above (n-1)/n is right."""
    assert all(grades(analytic, AnalyticReplace(), Threshold(tau=0.9), SAMPLED))


def test_greedy_shuffle_in_parallel_is_wrong(analytic: AnalyticHost) -> None:
    """Greedy picks of a shuffle are all the same letter: one per step is right, two are wrong."""
    assert all(grades(analytic, AnalyticShuffle(), FixedStep(k=1), LINE))
    assert not any(grades(analytic, AnalyticShuffle(), FixedStep(k=2), LINE))


@pytest.mark.parametrize(("k", "right"), [(1, True), (3, False), (6, False)])
def test_greedy_replace_waits_for_the_last_token(k: int, right: bool, analytic: AnalyticHost) -> None:
    """Greedy replace keeps every letter while more than two are masked: k=1 is right, k=3 and 6 replace nothing."""
    assert set(grades(analytic, AnalyticReplace(), FixedStep(k=k), LINE)) == {right}


def test_greedy_replace_by_two_hangs_on_ties(analytic: AnalyticHost) -> None:
    """Greedy replace, k=2: the last two places are even between old and new, and ties go to the lowest id.

    So the answer is right if the new letter comes before exactly one of the last two. (With ties decided by a coin
    it would be right half of the time, as in the paper; for letters in random order this rule gives one third.)
    """
    right = grades(analytic, AnalyticReplace(), FixedStep(k=2), LINE)
    wanted = [
        (item.data["new"] < item.data["line"][4]) != (item.data["new"] < item.data["line"][5])
        for item in AnalyticReplace().items()
    ]

    assert right == wanted


def test_factor_compat_costs_the_last_pair(analytic: AnalyticHost) -> None:
    """Shuffle under factor 1 is right; the released code always fills the last two at once, right half of the time."""
    assert all(grades(analytic, AnalyticShuffle(), Factor(factor=1.0), SAMPLED))
    assert_rate(grades(analytic, AnalyticShuffle(), Factor(factor=1.0, compat=True), SAMPLED, REPEATS), 0.5)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_closed_form_on_the_tasks_own_canvas(cache: str, analytic: AnalyticHost) -> None:
    """Shuffle with k=3 from the left on a canvas of 32 with its EoT tail: the product formula, whatever the cache."""
    settings = DecodeSettings(AnalyticShuffle.gen_length, 32, cache=cache, eot="stop", temperature=1.0)
    right = grades(analytic, AnalyticShuffle(), FixedStep(k=3, order="left-to-right"), settings, 3)

    assert_rate(right, shuffle_accuracy(N, 3))


@pytest.mark.parametrize(("gamma", "k"), [(0.0, 1), (1e9, N)])
def test_entropy_bound_at_its_ends(gamma: float, k: int, analytic: AnalyticHost) -> None:
    """At gamma 0 it fills what is certain and one token more, at infinity all at once, with those accuracies."""
    rule = EntropyBound(gamma=gamma)

    assert all(grades(analytic, AnalyticCopy(), rule, SAMPLED))
    assert_rate(grades(analytic, AnalyticShuffle(), rule, SAMPLED, REPEATS), shuffle_accuracy(N, k))
    assert_rate(grades(analytic, AnalyticReplace(), rule, SAMPLED, REPEATS), replace_accuracy(N, k))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("task", [AnalyticCopy(), AnalyticShuffle(), AnalyticReplace()], ids=lambda t: t.name)
def test_apd_without_trust_loses_nothing(task: Task, temperature: float, analytic: AnalyticHost) -> None:
    """APD at R=0, with the ideal causal model, is right as one token per step is, in blocks and on its own schedule."""
    settings = DecodeSettings(N, N, temperature=temperature)

    assert all(grades(analytic, task, Apd(R=0.0), settings))
    for i, item in enumerate(task.items()[:20]):
        native = Apd(R=0.0, schedule="native")
        sample = decode(analytic, native, [analytic.encode(item.prompt)], [i], settings).samples[0]
        assert task.grade(item, analytic.decode(sample.output_ids)).correct


def test_apd_with_full_trust_loses_what_one_shot_loses(analytic: AnalyticHost) -> None:
    """APD at R=1 fills all at once: at temperature 1 it is right with 1 for copy, n!/n^n and ((n-1)/n)^(n-1)."""
    assert all(grades(analytic, AnalyticCopy(), Apd(R=1.0), SAMPLED))
    assert_rate(grades(analytic, AnalyticShuffle(), Apd(R=1.0), SAMPLED, REPEATS), shuffle_accuracy(N, N))
    assert_rate(grades(analytic, AnalyticReplace(), Apd(R=1.0), SAMPLED, REPEATS), replace_accuracy(N, N))


def test_greedy_apd_with_full_trust_repeats_itself(analytic: AnalyticHost) -> None:
    """Greedy APD at R=1 shuffles one letter over and over, and replaces nothing: never right."""
    assert not any(grades(analytic, AnalyticShuffle(), Apd(R=1.0), LINE))
    assert not any(grades(analytic, AnalyticReplace(), Apd(R=1.0), LINE))
