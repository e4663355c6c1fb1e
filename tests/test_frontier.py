"""Decoding without blocks, against a slow decoder that keeps every layer's keys and values by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from slow_forward import KeysValues, slow_forward

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import PluginError, UsageError
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.plan import Plan
from l2pd_bench.records import load_runs
from l2pd_bench.report.model import make_board
from l2pd_bench.runner import execute
from l2pd_bench.strategies.base import Decision, Frontier, StepView, Strategy
from l2pd_bench.strategies.rules import best

Prompts = Callable[[int, int], list[list[int]]]
SURE = 0.6


@dataclass(frozen=True)
class LeftToRight(Strategy):
    """Commit the first mask and what follows as long as it is sure enough."""

    name: ClassVar[str] = "left-to-right"
    window: int | None = 4
    lookahead: int | None = 12

    def frontier(self) -> Frontier:
        """As the fields say."""
        return Frontier(self.window, self.lookahead)

    def select(self, view: StepView) -> Decision:
        """The run of sure positions from the first on."""
        first = best(-torch.arange(view.tokens.shape[1]).expand_as(view.tokens).float(), view.candidates)
        return Decision(((view.confidence >= SURE) | first).cumprod(-1).bool())


def slow_decode(
    host: MiniHost, prompt: list[int], gen: int, window: int | None, lookahead: int | None
) -> tuple[list[int], list[tuple[int, int]]]:
    """Generated ids, and for each forward how many columns it fed of how many there were."""
    canvas, fed = [*prompt, *[host.mask_id] * gen], []
    kept: KeysValues = []
    at, left = len(prompt), 0
    while at < len(canvas):
        stop = len(canvas) if lookahead is None else min(at + lookahead, len(canvas))
        logits, fresh = slow_forward(host.model, canvas[:stop], range(left, stop), kept or None)
        kept = [
            (torch.cat([k[:left], new_k]), torch.cat([v[:left], new_v]))
            for (k, v), (new_k, new_v) in zip(kept or fresh, fresh, strict=True)
        ]
        fed.append((stop - left, stop))
        rows = logits[at - left :].float()
        rows[:, host.mask_id] = -torch.inf
        tokens, sure = rows.argmax(-1).tolist(), rows.softmax(-1).amax(-1).tolist()
        count = 1
        while count < len(tokens) and sure[count] >= SURE:
            count += 1
        canvas[at : at + count] = tokens[:count]
        left = 0 if window is None else max(at - window + 1, 0)
        at += count
    return canvas[len(prompt) :], fed


@pytest.mark.parametrize(("window", "lookahead"), [(4, 12), (1, 5), (None, 12), (16, None), (None, None), (1000, 1)])
def test_frontier_equals_kept_keys_and_values(
    window: int | None, lookahead: int | None, mini64: MiniHost, mini_prompts: Prompts
) -> None:
    """Tokens, forwards and positions are those of keys and values kept by hand; no column beyond the lookahead."""
    for prompt in mini_prompts(3, 81):
        [got] = decode(mini64, LeftToRight(window, lookahead), [prompt], [0], DecodeSettings(32, 32)).samples
        with torch.inference_mode():
            ids, fed = slow_decode(mini64, prompt, 32, window, lookahead)

        assert got.output_ids == ids
        assert (got.nfe_full, got.nfe_window) == (sum(n == of for n, of in fed), sum(n < of for n, of in fed))
        assert got.positions == sum(n for n, _ in fed)


def test_stop_ends_it(mini: MiniHost, mini_prompts: Prompts) -> None:
    """Under `stop` it ends with the first EoT, which is where `decode` has its first one."""
    for prompt in mini_prompts(4, 82):
        full, stopped = (
            decode(mini, LeftToRight(), [prompt], [0], DecodeSettings(64, 32, eot=eot)).samples[0]
            for eot in ("decode", "stop")
        )
        assert stopped.output_ids == full.output_ids[: full.output_ids.index(mini.eot_id) + 1]
        assert stopped.nfe_full + stopped.nfe_window < full.nfe_full + full.nfe_window


def test_noise_is_fresh_in_every_forward(mini: MiniHost, mini_prompts: Prompts) -> None:
    """At a temperature a column that was not committed is drawn anew."""
    seen: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Slow(LeftToRight):
        def select(self, view: StepView) -> Decision:
            assert view.gumbel is not None
            seen.append(view.gumbel()[0])
            return Decision(best(-torch.arange(view.tokens.shape[1]).expand_as(view.tokens).float(), view.candidates))

    decode(mini, Slow(), mini_prompts(1, 83), [0], DecodeSettings(8, 8, temperature=0.5))

    assert not torch.equal(seen[0][1], seen[1][0])  # the same column, a forward later


@pytest.mark.parametrize(
    ("settings", "batch", "message"),
    [({"cache": "dual"}, 1, "got cache 'dual', expected none"), ({}, 2, "got a batch of 2, expected 1")],
)
def test_refused(settings: dict[str, Any], batch: int, message: str, mini: MiniHost, mini_prompts: Prompts) -> None:
    """A cache of the setting, or a batch, is refused with the reason."""
    with pytest.raises(UsageError, match=message):
        decode(mini, LeftToRight(), mini_prompts(batch, 84), [0] * batch, DecodeSettings(32, 32, **settings))


def test_a_rule_that_never_ends(mini: MiniHost, mini_prompts: Prompts) -> None:
    """A rule that leaves the first mask for ever is stopped, as with blocks."""

    @dataclass(frozen=True)
    class Backwards(LeftToRight):
        def select(self, view: StepView) -> Decision:
            last = torch.arange(view.tokens.shape[1]) == view.tokens.shape[1] - 1
            return Decision(view.candidates & last, remask=~view.candidates)

    with pytest.raises(PluginError, match="'left-to-right': a block still has masks after 128 forwards"):
        decode(mini, Backwards(), mini_prompts(1, 85), [0], DecodeSettings(32, 32))


def test_no_oracle(mini: MiniHost, mini_prompts: Prompts) -> None:
    """What is shown a reference cannot have a frontier."""

    @dataclass(frozen=True)
    class Both(LeftToRight):
        uses_reference: ClassVar[bool] = True

    with pytest.raises(PluginError, match="got both uses_reference and frontier"):
        decode(mini, Both(), mini_prompts(1, 86), [0], DecodeSettings(32, 32), [[1] * 32])


def test_it_is_a_setting_of_its_own(tmp_path: Any) -> None:
    """Its rows stand in a section of their own that says so, and are compared with the reference only."""
    plan = Plan(
        strategy=["fixed-step", "apd:schedule=native"], task=["mini-code"], gen_length=[32], limit=2, output=tmp_path
    )
    assert execute(plan, command="test").exit_code == 0
    blocks, native = make_board(load_runs(tmp_path)).sections

    assert [row.spec for row in blocks.rows] == ["fixed-step"]
    assert native.protocol["schedule"] == "frontier, W 16, M 100"
    assert "without blocks (frontier, W 16, M 100)" in native.title
    [row] = native.rows
    assert row.speedup is None and row.reference_speedup is not None
    assert any("a setting of its own" in remark for remark in native.remarks)
