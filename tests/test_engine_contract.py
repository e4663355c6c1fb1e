"""What the engine promises to users and strategies: checked settings, checked decisions, progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import STEP_CAP, decode
from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.strategies.base import Decision, StepView, Strategy
from l2pd_bench.strategies.fixed_step import FixedStep

Prompts = Callable[[int, int], list[list[int]]]
A, B_ = 20, 21  # two ordinary tokens of `analytic`


@dataclass(frozen=True)
class Scripted(Strategy):
    """A strategy made of a function of the view."""

    name: ClassVar[str] = "scripted"
    rule: Callable[[StepView], Any]

    def select(self, view: StepView) -> Decision:
        """What the function says."""
        decision: Decision = self.rule(view)
        return decision


def nothing(view: StepView) -> Tensor:
    """No position."""
    return torch.zeros_like(view.candidates)


def only(view: StepView, *places: int) -> Tensor:
    """These places, in every row."""
    mask = nothing(view)
    mask[:, list(places)] = True
    return mask


def tokens(view: StepView, token: int) -> Tensor:
    """The same token everywhere."""
    return torch.full_like(view.tokens, token)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gen_length": 0}, r"gen-length: got 0, expected"),
        ({"gen_length": -32}, r"gen-length: got -32, expected"),
        ({"block_length": 0}, r"block-length: got 0, expected"),
        ({"block_length": -1}, r"block-length: got -1, expected"),
        ({"gen_length": 100}, r"gen-length: got 100, .*block-length 32.* try 96 or 128"),
        ({"gen_length": 16}, r"gen-length: got 16, .*block-length 32.* try 32$"),
        ({"cache": "daul"}, r"cache: got 'daul', expected one of dual, none, prefix; did you mean 'dual'\?"),
        ({"cache": ""}, r"cache: got '', expected one of dual, none, prefix"),
        ({"eot": "stopp"}, r"eot: got 'stopp', expected one of decode, predict, stop; did you mean 'stop'\?"),
        ({"temperature": -0.1}, r"temperature: got -0.1, expected"),
        ({"temperature": math.nan}, r"temperature: got nan, expected"),
        ({"temperature": math.inf}, r"temperature: got inf, expected"),
    ],
)
def test_bad_settings_are_usage_errors(settings: dict[str, Any], message: str) -> None:
    """A setting that cannot be decoded with raises UsageError: what was got, what is expected, what to try."""
    with pytest.raises(UsageError, match=message) as caught:
        DecodeSettings(**settings)

    assert caught.value.exit_code == 2


BROKEN: dict[str, Callable[[StepView], Any]] = {
    "commit int64": lambda v: Decision(v.candidates.long()),
    "commit float": lambda v: Decision(v.confidence),
    "commit one row": lambda v: Decision(v.candidates[0]),
    "commit broadcastable": lambda v: Decision(v.candidates[:1]),
    "commit too wide": lambda v: Decision(torch.ones(2, 9, dtype=torch.bool)),
    "commit list": lambda v: Decision(v.candidates.tolist()),  # type: ignore[arg-type]
    "commit None": lambda v: Decision(None),  # type: ignore[arg-type]
    "tokens int32": lambda v: Decision(v.candidates, tokens=v.tokens.int()),
    "tokens float": lambda v: Decision(v.candidates, tokens=v.confidence),
    "tokens too narrow": lambda v: Decision(v.candidates, tokens=v.tokens[:, 1:]),
    "remask int64": lambda v: Decision(v.candidates, remask=v.tokens),
    "remask one row": lambda v: Decision(v.candidates, remask=v.candidates[0]),
    "remask list": lambda v: Decision(v.candidates, remask=[True]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("broken", BROKEN)
def test_wrong_decision_is_a_plugin_error(broken: str, analytic: AnalyticHost) -> None:
    """A decision of wrong type, dtype or shape raises PluginError with the strategy, the field, got and expected."""
    prompts = [analytic.encode("copy a b")] * 2
    with pytest.raises(PluginError, match=rf"'scripted'.*{broken.split()[0]}.*\(2, 8\).*got"):
        decode(analytic, Scripted(BROKEN[broken]), prompts, [0, 0], DecodeSettings(8, 8))


@pytest.mark.parametrize("wrong", [None, "a tensor", "a tuple"])
def test_what_is_no_decision_is_a_plugin_error(wrong: str | None, analytic: AnalyticHost) -> None:
    """A rule that returns something else than a Decision raises PluginError naming the strategy."""
    returned: dict[str | None, Callable[[StepView], Any]] = {
        None: lambda v: None,
        "a tensor": lambda v: v.candidates,
        "a tuple": lambda v: (v.candidates, None, None),
    }
    with pytest.raises(PluginError, match="scripted"):
        decode(analytic, Scripted(returned[wrong]), [analytic.encode("copy a b")], [0], DecodeSettings(8, 8))


@pytest.mark.parametrize("token", [-1, 10_000])
def test_tokens_outside_the_vocabulary_are_a_plugin_error(token: int, mini: MiniHost, mini_prompts: Prompts) -> None:
    """A strategy that fills in an id which is no token raises PluginError naming the strategy."""
    with pytest.raises(PluginError, match="scripted"):
        decode(
            mini,
            Scripted(lambda v: Decision(only(v, 0), tokens=tokens(v, token))),
            mini_prompts(1, 1),
            [0],
            DecodeSettings(8, 8),
        )


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_forced_commits_are_the_best_candidate(cache: str, mini: MiniHost, mini_prompts: Prompts) -> None:
    """A rule that chooses nothing decodes as one token per step by confidence, all counted as forced, per row."""
    prompts, settings = mini_prompts(3, 50), DecodeSettings(16, 8, cache=cache)
    idle = Scripted(lambda v: Decision(nothing(v)))
    together = decode(mini, idle, prompts, [0] * 3, settings).samples
    alone = [decode(mini, idle, [p], [0], settings).samples[0] for p in prompts]
    wanted = decode(mini, FixedStep(k=1), prompts, [0] * 3, settings).samples

    assert together == alone
    assert [s.forced_commits for s in together] == [16] * 3
    assert [s.nfe_full + s.nfe_window for s in together] == [16] * 3
    assert [s.output_ids for s in together] == [s.output_ids for s in wanted]
    assert [s.forced_commits for s in wanted] == [0] * 3


def test_only_idle_rows_and_steps_are_forced(analytic: AnalyticHost) -> None:
    """Forced commits are counted in the steps and rows where nothing was chosen, and not after a row is done."""

    def rule(view: StepView) -> Decision:
        lazy = (view.canvas == analytic.encode("copy a")[0]).any(-1, keepdim=True)  # rows whose prompt is a copy
        return Decision(view.candidates & ~lazy)

    prompts = [analytic.encode("copy a b"), analytic.encode("shuffle a b c")]
    samples = decode(analytic, Scripted(rule), prompts, [0, 0], DecodeSettings(8, 4)).samples

    assert [s.forced_commits for s in samples] == [8, 0]
    assert [s.nfe_full for s in samples] == [8, 2]


def test_choices_outside_the_candidates_do_not_count_as_progress(analytic: AnalyticHost) -> None:
    """A rule that always chooses a filled position is forced from the second step on."""
    rule = Scripted(lambda v: Decision(only(v, 2), tokens=tokens(v, A)))
    sample = decode(analytic, rule, [analytic.encode("copy a b")], [0], DecodeSettings(4, 4)).samples[0]

    assert sample.forced_commits == 3
    assert sample.nfe_full == 4


def test_forced_commit_fills_in_the_models_pick(analytic: AnalyticHost) -> None:
    """What is forced is the most confident pick of the model, not a token the strategy gave for a place it left."""
    rule = Scripted(lambda v: Decision(nothing(v), tokens=tokens(v, A)))
    sample = decode(analytic, rule, [analytic.encode("copy a b")], [0], DecodeSettings(2, 2)).samples[0]

    assert analytic.decode(sample.output_ids) == "a b"


def test_commits_outside_the_candidates_are_ignored(analytic: AnalyticHost) -> None:
    """A filled position keeps its token, whatever the strategy chooses there later."""

    def rule(view: StepView) -> Decision:
        if view.step == 0:
            return Decision(only(view, 1, 3), tokens=tokens(view, A))
        return Decision(torch.ones_like(view.candidates), tokens=tokens(view, B_))

    sample = decode(analytic, Scripted(rule), [analytic.encode("copy a b")], [0], DecodeSettings(4, 4)).samples[0]

    assert sample.output_ids == [B_, A, B_, A]
    assert sample.nfe_full == 2


def test_remasking_empties_filled_positions(analytic: AnalyticHost) -> None:
    """A remasked position becomes a candidate again; remasking what was chosen in the same step does nothing."""

    def rule(view: StepView) -> Decision:
        if view.step == 0:
            return Decision(only(view, 0, 1), tokens=tokens(view, A))
        if view.step == 1:
            return Decision(only(view, 2), tokens=tokens(view, A), remask=only(view, 0, 2, 3))
        return Decision(view.candidates, tokens=tokens(view, B_))

    sample = decode(analytic, Scripted(rule), [analytic.encode("copy a b")], [0], DecodeSettings(4, 4)).samples[0]

    assert sample.output_ids == [B_, A, A, B_]
    assert sample.nfe_full == 3


def test_remasking_reaches_only_the_block_and_open_rows(analytic: AnalyticHost) -> None:
    """Earlier blocks, the prompt and rows that are done stay as they are: the same alone and in a batch."""
    shuffle_id = analytic.encode("shuffle a")[0]

    def rule(view: StepView) -> Decision:
        fast = (view.canvas == shuffle_id).any(-1, keepdim=True)
        commit = view.candidates & ((fast & (torch.arange(4) >= 4 * view.step)) | (torch.arange(4) == view.step % 4))
        return Decision(commit, remask=torch.full_like(commit, view.step == 2))

    prompts = [analytic.encode("shuffle a b c d e f"), analytic.encode("replace z u v w x y")]
    settings = DecodeSettings(8, 4)
    together = decode(analytic, Scripted(rule), prompts, [0, 0], settings).samples
    alone = [decode(analytic, Scripted(rule), [p], [0], settings).samples[0] for p in prompts]

    assert together == alone
    assert [s.nfe_full for s in together] == [2, 12]  # the slow row fills two positions of each block twice
    assert analytic.decode(together[0].output_ids) == "a a a a b b"  # not "a a": the first block was not emptied


def test_endless_remasking_ends_at_the_step_cap(analytic: AnalyticHost) -> None:
    """A rule that empties all it filled raises PluginError naming it after a fixed number of forwards per position."""
    steps: list[int] = []

    def rule(view: StepView) -> Decision:
        steps.append(view.step)
        return Decision(nothing(view), remask=torch.ones_like(view.candidates))

    with pytest.raises(PluginError, match=r"'scripted'.*masks after 32 forwards"):
        decode(analytic, Scripted(rule), [analytic.encode("copy a b")], [0], DecodeSettings(16, 8))

    assert steps == list(range(STEP_CAP * 8))
    assert STEP_CAP == 4


@pytest.mark.parametrize("eot", ["decode", "predict"])
def test_filling_in_masks_is_filling_in_nothing(eot: str, analytic: AnalyticHost) -> None:
    """A rule that fills in MASK has chosen nothing, in every step, and the engine goes on for it."""
    rule = Scripted(lambda v: Decision(v.candidates, tokens=tokens(v, analytic.mask_id)))
    (sample,) = decode(analytic, rule, [analytic.encode("copy a b")], [0], DecodeSettings(8, 8, eot=eot)).samples
    assert sample.forced_commits == sample.nfe_full > 0 == sample.overrides
    assert analytic.decode(sample.output_ids[:2]) == "a b"
