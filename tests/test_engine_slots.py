"""Continuous batching: rows at different blocks, a finished one's place taken at once, everything else as alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from checkpoint_factory import write
from torch import Tensor

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.engine import decode
from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import HostRequest
from l2pd_bench.hosts.mini import MiniHost, load
from l2pd_bench.hosts.transformer import TransformerConfig
from l2pd_bench.hosts.weights import random_model
from l2pd_bench.registry import load_host, load_strategy, load_task
from l2pd_bench.strategies.base import Decision, StepView, Strategy
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.rules import best
from l2pd_bench.strategies.threshold import Threshold

CACHES, EOTS = ("none", "prefix", "dual"), ("decode", "stop", "predict")
GEN, BLOCK = 48, 16


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Seven prompts of six lengths, of three tasks."""
    host = load_host("mini", device="cpu")
    texts = [item.prompt for name in ("mini-math", "mini-list", "mini-code") for item in load_task(name).items()[:3]]
    return [host.encode(text) for text in texts[:7]]


@dataclass(frozen=True)
class Counting(Strategy):
    """Threshold with a memory: every third step of a block fills the best two, whatever it says."""

    name: ClassVar[str] = "counting"

    def begin(self, context: Any) -> Any:
        """A rule that counts its own calls."""
        calls = count()

        def select(view: StepView) -> Decision:
            k = 2 if next(calls) % 3 == 2 else 1
            return Decision((view.confidence > 0.99) | best(view.confidence, view.candidates, k))

        return select


RULES = {"fixed-step": FixedStep(k=4), "threshold": Threshold(), "counting": Counting()}


@pytest.mark.parametrize("eot", EOTS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("rule", RULES)
def test_slots_change_nothing(rule: str, cache: str, eot: str, mini: MiniHost, prompts: list[list[int]]) -> None:
    """With three places for seven prompts every sample has the tokens and all the counts that it has alone."""
    settings = DecodeSettings(GEN, BLOCK, cache, eot)
    together = decode(mini, RULES[rule], prompts, range(7), settings, slots=3).samples

    alone = [decode(mini, RULES[rule], [p], [i], settings).samples[0] for i, p in enumerate(prompts)]
    assert together == alone


class Spy:
    """Passes forwards on, and notes which rows they were of, and from which columns on."""

    def __init__(self, session: Any) -> None:
        self.session, self.calls = session, list[tuple[tuple[int, ...], tuple[int, ...]]]()

    def forward(self, ids: Tensor, start: Sequence[int], block: Any, *, rows: Sequence[int], **others: Any) -> Tensor:
        """Noted."""
        self.calls.append((tuple(rows), tuple(start)))
        logits: Tensor = self.session.forward(ids, start, block, rows=rows, **others)
        return logits

    def move(self, source: int, target: int) -> None:
        """Passed on."""
        self.session.move(source, target)


def watched(
    monkeypatch: pytest.MonkeyPatch, host: Any, strategy: Strategy, prompts: Any, settings: DecodeSettings, slots: int
) -> tuple[BatchDecoded, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """A decode, and its forwards."""
    spies: list[Spy] = []
    opened = type(host).open

    def spied(self: Any, *args: Any, **options: Any) -> Spy:
        spies.append(Spy(opened(self, *args, **options)))
        return spies[-1]

    monkeypatch.setattr(type(host), "open", spied)
    decoded = decode(host, strategy, prompts, range(len(prompts)), settings, slots=slots)
    return decoded, spies[0].calls


def test_a_free_place_is_taken_at_once(monkeypatch: pytest.MonkeyPatch, analytic: AnalyticHost) -> None:
    """Under `stop`, two places and answers of 2, 18 and 2 tokens: the third begins right after the first has ended."""
    prompts = [analytic.encode(f"copy {line}") for line in ("a b", "a b c d e f g h i j k l m n o p q r", "c d")]
    settings = DecodeSettings(24, 8, "none", "stop")
    decoded, calls = watched(monkeypatch, analytic, FixedStep(order="left-to-right"), prompts, settings, 2)

    first, long, last = (s.nfe_full for s in decoded.samples)
    assert (first, long, last) == (3, 19, 3)
    rows = [set(who) for who, _ in calls]
    assert rows == [{0, 1}] * 3 + [{1, 2}] * 3 + [{1}] * 13


def test_rows_at_different_blocks_share_a_forward(monkeypatch: pytest.MonkeyPatch, analytic: AnalyticHost) -> None:
    """With a dual cache, windows of one forward begin at different columns, and refreshes are made together."""
    lines = ["a b c d e f g h i j k l m n", *["a b c d e", "e d c b"] * 2]
    prompts = [analytic.encode(f"copy {line}") for line in lines]
    settings = DecodeSettings(24, 8, "dual", "stop")
    _, calls = watched(monkeypatch, analytic, FixedStep(k=2, order="left-to-right"), prompts, settings, 3)

    starts = {start for _, start in calls}
    assert any(len(set(start)) > 1 for start in starts)
    refreshes = [who for who, start in calls if max(start) < max(map(len, prompts))]  # from a prompt's columns on
    assert any(len(who) > 1 for who in refreshes[1:])


def test_nobody_starves(monkeypatch: pytest.MonkeyPatch, analytic: AnalyticHost) -> None:
    """A row with keys is fed at least every other forward, however many others need all their columns fed."""
    lines = ["a b c d e f g h i j k l m n o p q r"] + ["a"] * 12
    prompts = [analytic.encode(f"copy {line}") for line in lines]
    settings = DecodeSettings(24, 8, "dual", "stop")
    _, calls = watched(monkeypatch, analytic, FixedStep(k=2, order="left-to-right"), prompts, settings, 3)

    seen = [i for i, (who, _) in enumerate(calls) if 0 in who]
    assert max(b - a for a, b in pairwise(seen)) <= 2


def test_no_more_are_begun(analytic: AnalyticHost) -> None:
    """Once `goes_on` says no, what is under way is finished, and the samples are those of the first prompts."""
    prompts = [analytic.encode(f"copy {letter} b") for letter in "acdefg"]
    answers, asked = iter([True, False]), []

    def goes_on() -> bool:
        asked.append(1)
        return next(answers)

    settings = DecodeSettings(8, 8, "none", "stop")
    some = decode(analytic, FixedStep(), prompts, range(6), settings, slots=2, goes_on=goes_on).samples
    every = decode(analytic, FixedStep(), prompts, range(6), settings).samples

    assert len(asked) == 2
    assert some == every[:3]


def test_seconds_are_divided(mini: MiniHost, prompts: list[list[int]]) -> None:
    """Samples' seconds add up to the decode's; a latency is at most the whole, of a late sample less than that."""
    decoded = decode(mini, Threshold(), prompts, range(7), DecodeSettings(GEN, BLOCK, "dual"), slots=2)

    assert sum(s.decode_s for s in decoded.samples) == pytest.approx(decoded.decode_s)
    assert sum(s.model_s for s in decoded.samples) == pytest.approx(decoded.model_s)
    assert all(0 < s.model_s + s.select_s < s.decode_s for s in decoded.samples)
    assert max(s.latency_s for s in decoded.samples) < decoded.decode_s
    assert sum(s.latency_s for s in decoded.samples) <= 2 * decoded.decode_s


def test_nan_is_an_error(mini: MiniHost) -> None:
    """A model that predicts NaN is told of, and no token is made of it."""
    config = TransformerConfig(mini.vocab_size, 16, 1, 2, 16)
    broken = random_model(config, device=torch.device("cpu"), dtype=torch.float32)
    broken.head.weight.fill_(torch.nan)
    host = MiniHost("broken", broken, mini.tokenizer, "")

    with pytest.raises(PluginError, match="model 'broken': got NaN"):
        decode(host, Threshold(), [[5, 6]], [0], DecodeSettings(8, 8))


@pytest.mark.parametrize("eot", EOTS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", ["fixed-step:k=4", "threshold", "learn2pd", "apd"])
def test_the_plain_way_is_the_same(name: str, cache: str, eot: str, mini: MiniHost, prompts: list[list[int]]) -> None:
    """`--no-fast` gives the same tokens and counts as the fast way, for prompts of several lengths in three places."""
    plain = load(HostRequest("mini", device="cpu", fast=False))
    strategy, _ = load_strategy(name)
    settings = DecodeSettings(64, 32, cache, eot)
    slow, fast = (decode(host, strategy, prompts[1:6], range(5), settings, slots=3).samples for host in (plain, mini))

    assert (plain.attention, mini.attention) == ("plain", "sdpa")
    assert slow == fast


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_the_plain_way_is_the_same_for_checkpoints(kind: str, cache: str, tmp_path: Path) -> None:
    """Of shared keys, biases and shifted logits too: tokens and counts of a small checkpoint are the same both ways."""
    written = write(tmp_path, kind)
    hosts = [load_host(str(written.folder), device="cpu", fast=fast) for fast in (False, True)]
    prompts = [torch.randint(10, 300, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (4, 9, 6)]
    settings = DecodeSettings(32, 16, cache)
    slow, fast = (decode(host, Threshold(tau=0.02), prompts, range(3), settings, slots=2).samples for host in hosts)

    assert slow == fast


def test_one_way_of_attention() -> None:
    """`--no-fast` has attention of its own: naming another beside it is refused, and `analytic` has no slow twin."""
    with pytest.raises(UsageError, match="got 'sdpa-math' with --no-fast"):
        load_host("llada-8b:layers=1", device="meta", weights="random", attention="sdpa-math", fast=False)
    with pytest.raises(UsageError, match="fast: got 'False' for model 'analytic'"):
        load_host("analytic", fast=False)
