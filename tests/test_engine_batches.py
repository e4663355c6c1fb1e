"""A sample's outcome is its own: whatever its batch, its place in it, and who stops early beside it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from torch import Tensor

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import Decoded
from l2pd_bench.engine import decode
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy
from l2pd_bench.strategies.factor import Factor
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.rules import ORDERS
from l2pd_bench.strategies.threshold import Threshold

Prompts = list[list[int]]
GEN, BLOCK = 32, 16
CACHES = ["none", "prefix", "dual"]
STRATEGIES: dict[str, Strategy] = {
    **{f"fixed-step {order}": FixedStep(k=4, order=order) for order in ORDERS},
    "threshold 0.9": Threshold(tau=0.9),
    "threshold 0.4": Threshold(tau=0.4),
    "factor": Factor(factor=1.0),
    "factor compat": Factor(factor=1.3, compat=True),
}
LENGTHS = [12, 1, 26, 5, 20, 9, 15]
Groups = tuple[tuple[int, ...], ...]  # batches of places in LENGTHS
ALONE: Groups = tuple((i,) for i in range(7))
TOGETHER: Groups = (tuple(range(7)),)
REORDERED: Groups = ((5, 2, 6, 0, 3, 1, 4),)
SPLIT: Groups = ((3, 1, 4), (5, 2, 6, 0))
Outcomes = Callable[[str, DecodeSettings, Groups], dict[int, Decoded]]


@pytest.fixture(scope="module")
def seven(mini_prompts: Callable[[int, int], Prompts]) -> Prompts:
    """Seven prompts of seven lengths, cut at the front."""
    drawn = mini_prompts(7, 40)
    return [(drawn[i - 1] + drawn[i])[-length:] for i, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def host(mini: MiniHost, seven: Prompts) -> MiniHost:
    """The embedded model, with that token for EoT that ends these samples at the most different times.

    For what is tested here any token will do as the end, so nothing depends on when the weights say EoT.
    """
    samples = decode(mini, STRATEGIES["fixed-step left-to-right"], seven, [0] * 7, DecodeSettings(GEN, BLOCK)).samples

    def spread(token: int) -> tuple[bool, int]:
        ends = [s.output_ids.index(token) if token in s.output_ids else GEN - 1 for s in samples]
        in_first_block = sum(end < BLOCK for end in ends)
        return 0 < in_first_block < 7, len({end // 4 for end in ends})

    restless = copy.copy(mini)
    restless.eot_id = max(sorted({token for s in samples for token in s.output_ids}), key=spread)
    return restless


def run(
    host: MiniHost, strategy: Strategy, prompts: Prompts, settings: DecodeSettings, groups: Groups
) -> dict[int, Decoded]:
    """Decode the prompts in these batches; the outcome by prompt."""
    result: dict[int, Decoded] = {}
    for group in groups:
        batch = decode(host, strategy, [prompts[i] for i in group], [1000 + 17 * i for i in group], settings)
        result |= dict(zip(group, batch.samples, strict=True))
    return result


@pytest.fixture(scope="module")
def outcomes(host: MiniHost, seven: Prompts) -> Outcomes:
    """`run` by the strategy's name, computed once for all tests."""
    return functools.cache(lambda name, settings, groups: run(host, STRATEGIES[name], seven, settings, groups))


@pytest.mark.parametrize("eot", ["decode", "stop", "predict"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_alone_equals_batch(name: str, cache: str, eot: str, outcomes: Outcomes) -> None:
    """Ids, forwards, positions, FLOPs and forced commits are the same alone, in a batch of 7, and in another order."""
    settings = DecodeSettings(GEN, BLOCK, cache=cache, eot=eot)

    assert outcomes(name, settings, TOGETHER) == outcomes(name, settings, ALONE)
    assert outcomes(name, settings, REORDERED) == outcomes(name, settings, ALONE)


SAMPLED = ["fixed-step random", "threshold 0.4", "factor"]


@pytest.mark.parametrize("eot", ["decode", "stop", "predict"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", SAMPLED)
def test_alone_equals_batch_when_sampling(name: str, cache: str, eot: str, outcomes: Outcomes) -> None:
    """The same holds at temperature 0.7: a sample's draws depend on its seed alone."""
    settings = DecodeSettings(GEN, BLOCK, cache=cache, eot=eot, temperature=0.7)

    assert outcomes(name, settings, SPLIT) == outcomes(name, settings, ALONE)


def before_end(ids: list[int], eot_id: int) -> list[int]:
    """What stands before the first EoT."""
    return ids[: ids.index(eot_id)] if eot_id in ids else ids


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 0.0) for name in STRATEGIES), *((name, 0.7) for name in SAMPLED)]
)
def test_stop_gives_the_same_answer(
    name: str, cache: str, temperature: float, host: MiniHost, outcomes: Outcomes
) -> None:
    """`stop` gives the ids of `decode` up to the first EoT and none after it, with no more forwards or positions."""
    full, cut = (
        outcomes(name, DecodeSettings(GEN, BLOCK, cache, eot, temperature), ALONE) for eot in ("decode", "stop")
    )

    for i in range(7):
        answer = before_end(full[i].output_ids, host.eot_id)
        assert cut[i].output_ids == full[i].output_ids[: len(answer) + 1]
        assert before_end(cut[i].output_ids, host.eot_id) == answer
        assert len(full[i].output_ids) == GEN
        assert host.mask_id not in full[i].output_ids
        assert cut[i].nfe_full <= full[i].nfe_full
        assert cut[i].nfe_window <= full[i].nfe_window
        assert cut[i].positions <= full[i].positions
        assert cut[i].flops <= full[i].flops
        if host.eot_id not in full[i].output_ids:
            assert cut[i] == full[i]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_stop_gives_the_same_text_on_analytic(name: str, cache: str, analytic: AnalyticHost) -> None:
    """On exact marginals, whose answers end long before the canvas, the text is the same and forwards are saved."""
    prompts = [analytic.encode(p) for p in ("copy a b c", "shuffle d e f g h", "replace z a b c d e f", "shuffle q")]
    full, cut = (
        decode(analytic, STRATEGIES[name], prompts, [1, 2, 3, 4], DecodeSettings(16, 4, cache, eot)).samples
        for eot in ("decode", "stop")
    )

    for f, c in zip(full, cut, strict=True):
        texts = [analytic.decode(before_end(s.output_ids, analytic.eot_id)) for s in (f, c)]
        assert texts[0] == texts[1] != ""
        assert c.nfe_full + c.nfe_window < f.nfe_full + f.nfe_window


@dataclass(frozen=True)
class Watched(Strategy):
    """Another strategy, and the canvas before each of its steps."""

    name: ClassVar[str] = "watched"
    inner: Strategy
    canvases: list[Tensor] = field(default_factory=list)

    def begin(self, context: Context) -> Select:
        """The other strategy's rule, watched."""
        select = self.inner.begin(context)

        def watch(view: StepView) -> Decision:
            self.canvases.append(view.canvas.clone())
            return select(view)

        return watch


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["fixed-step confidence", "fixed-step left-to-right", "threshold 0.4"])
def test_stop_ends_at_the_first_possible_step(
    name: str, cache: str, host: MiniHost, seven: Prompts, outcomes: Outcomes
) -> None:
    """`stop` spends the forwards up to the step after which an EoT is committed and all before it is filled."""
    stopped_early = 0
    for i in range(len(seven)):
        watched = Watched(STRATEGIES[name])
        full = run(host, watched, seven, DecodeSettings(GEN, BLOCK, cache=cache), ((i,),))[i]
        states = [c[0, -GEN:].tolist() for c in watched.canvases[1:]] + [full.output_ids]
        wanted = len(states)
        for step, state in enumerate(states, 1):
            if host.eot_id in state and host.mask_id not in before_end(state, host.eot_id):
                wanted = step
                break
        cut = outcomes(name, DecodeSettings(GEN, BLOCK, cache=cache, eot="stop"), ALONE)[i]
        stopped_early += wanted < len(states)

        assert len(states) == full.nfe_full + full.nfe_window
        assert cut.nfe_full + cut.nfe_window == wanted
        assert cut.nfe_full == (wanted if cache == "none" else 1 + (wanted > first_block(states, host.mask_id)))

    if name == "fixed-step left-to-right":
        assert stopped_early >= 1


def first_block(states: list[list[int]], mask_id: int) -> int:
    """The number of steps that fill the first of two blocks."""
    return next(step for step, state in enumerate(states, 1) if mask_id not in state[:BLOCK])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("cache", CACHES)
def test_rows_dropped_at_several_blocks_leave_the_others_alone(
    cache: str, temperature: float, analytic: AnalyticHost
) -> None:
    """Rows that end in the first, second, third and last of four blocks keep their own answers and counts."""
    letters = "a b c d e f g h i j k l m n"
    lines = [letters[:19], letters[:3], letters, letters[:11], letters[:1], letters[:21]]
    prompts = [analytic.encode(f"shuffle {line}") for line in lines]
    settings = DecodeSettings(16, 4, cache, "stop", temperature)
    strategy = STRATEGIES["fixed-step random"]
    together = decode(analytic, strategy, prompts, list(range(6)), settings).samples
    alone = [decode(analytic, strategy, [p], [i], settings).samples[0] for i, p in enumerate(prompts)]

    assert together == alone
    assert {-(-len(s.output_ids) // 4) for s in alone} == {1, 2, 3, 4}


def test_rows_do_end_at_different_times(outcomes: Outcomes) -> None:
    """The tests above mean something: rows stop at several steps, in both blocks, or never."""
    cut = outcomes("fixed-step left-to-right", DecodeSettings(GEN, BLOCK, eot="stop"), TOGETHER)
    times = [s.nfe_full for s in cut.values()]

    assert len(set(times)) >= 3
    assert 0 < sum(t <= BLOCK // 4 for t in times) < 7


@pytest.mark.parametrize("cache", CACHES)
def test_finished_rows_leave_the_forward(
    cache: str, host: MiniHost, seven: Prompts, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `stop`, at the start of the second block only the rows that go on are fed."""
    name, settings = "fixed-step left-to-right", DecodeSettings(GEN, BLOCK, cache=cache, eot="stop")
    going_on = sum(s.nfe_full + s.nfe_window > BLOCK // 4 for s in outcomes(name, settings, ALONE).values())
    fed: list[int] = []
    hidden = host.model.hidden

    def count(ids: Tensor, *rest: Any) -> Tensor:
        fed.append(len(ids))
        return hidden(ids, *rest)

    monkeypatch.setattr(host.model, "hidden", count)
    run(host, STRATEGIES[name], seven, settings, TOGETHER)

    assert 0 < going_on < 7
    assert fed[0] == 7
    assert fed[-1] == going_on


def test_a_batch_of_twins_gives_twins(host: MiniHost, seven: Prompts) -> None:
    """The same prompt several times in a batch, with one seed, gives the same outcome several times."""
    settings = DecodeSettings(GEN, BLOCK, temperature=0.7)
    samples = decode(host, FixedStep(k=4), [seven[3], seven[0], seven[3]], [5, 5, 5], settings).samples

    assert samples[0] == samples[2]
