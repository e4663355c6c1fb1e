"""A sample while it is being decoded, and what came of it: where it stands, what it has cost, when it ends.

Plain numbers on the host; no tensor, no model. All counts are a sample's own, as if it
had been decoded alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from l2pd_bench.auxiliary import Auxiliary
from l2pd_bench.cache import CachePolicy
from l2pd_bench.hosts.base import Host
from l2pd_bench.strategies.base import Decision, Frontier, StepView


@dataclass
class Decoded:
    """One sample's outcome; all counts are its own, whatever it was decoded with. Seconds are not compared."""

    output_ids: list[int]  # the generation region, up to where the sample ended
    nfe_full: int = 0  # forwards it was active in that fed all its columns
    nfe_window: int = 0  # forwards it was active in that fed part of them
    nfe_auxiliary: int = 0  # forwards of the strategy's own models
    positions: int = 0  # columns fed to the host for it, padding not counted
    flops: int = 0  # of the host and of the strategy's own models
    forced_commits: int = 0  # steps in which the strategy chose nothing for it
    overrides: int = 0  # steps in which the strategy filled in other tokens than the model's picks
    cut_tokens: int = 0  # columns that EoT prediction cut off
    decode_s: float = field(default=0.0, compare=False)  # its share of the seconds
    model_s: float = field(default=0.0, compare=False)
    select_s: float = field(default=0.0, compare=False)
    latency_s: float = field(default=0.0, compare=False)  # from when it was begun until it was done


@dataclass(frozen=True)
class BatchDecoded:
    """What was decoded together, in the order of its prompts, and where the time went (seconds)."""

    samples: list[Decoded]
    decode_s: float
    model_s: float
    select_s: float


@dataclass(eq=False)
class Row:
    """One sample under way. `end` is the column behind its last; `place` tells it among the prompts."""

    place: int
    padding: int
    end: int
    select: Callable[[StepView], Decision]
    auxiliary: Auxiliary
    began_s: float  # on the clock of the decode
    sample: Decoded = field(default_factory=lambda: Decoded([]))
    blocks: Iterator[tuple[slice, slice]] = field(default_factory=lambda: iter(()))
    block: slice = field(default_factory=lambda: slice(0, 0))
    first: slice = field(default_factory=lambda: slice(0, 0))  # the window of the block's first forward
    steps: int = 0  # forwards already spent on the block
    ids: list[int] = field(default_factory=list)  # of the block, as last read; empty: all masks
    has_ended: bool = False
    spent_s: float = 0.0  # its shares of the forwards it was in, and of what followed from them
    latency_s: float = 0.0

    def window(self, cache: CachePolicy) -> slice:
        """The columns that the next forward feeds."""
        return self.first if self.steps == 0 else cache.window(self.block, self.end)

    def is_stuck(self, ids: list[int], mask_id: int) -> bool:
        """Whether a step that has made this of the block filled nothing."""
        before = self.ids or [mask_id] * len(ids)
        return not any(old == mask_id != new for old, new in zip(before, ids, strict=True))

    def next_block(self) -> bool:
        """Go on to the next block; whether there is one."""
        found = next(self.blocks, None)
        if found is None:
            return False
        (self.block, self.first), self.steps, self.ids = found, 0, []
        return True

    def count(self, host: Host, window: slice, length: int, ahead: int) -> None:
        """Add one forward, as of a sample alone.

        `length` is the row's before it, `ahead` the column behind the last that is predicted.
        """
        sample = self.sample
        fed = min(window.stop, length) - max(window.start, self.padding)
        if fed == length - self.padding:
            sample.nfe_full += 1
        else:
            sample.nfe_window += 1
        sample.positions += fed
        calls, flops = self.auxiliary.take()
        sample.nfe_auxiliary += calls
        sample.flops += flops + host.flops(fed, length - self.padding, min(ahead, length) - self.block.start)


def blocks_of(row: Row, start: int, n: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of a row from column `start` on, each with the window of its first forward: all the row has then."""
    at = start
    while at < row.end:
        yield slice(at, at + n), slice(0, row.end)
        at += n


def turns_of(row: Row, start: int, frontier: Frontier) -> Iterator[tuple[slice, slice]]:
    """What a frontier makes of a row: a block begins at the first mask and gets one forward.

    After APD, section A.6 of its description: all of the canvas at first, then what is near
    the frontier.
    """
    at, left = start, 0
    while at < row.end:
        stop = row.end if frontier.lookahead is None else min(at + frontier.lookahead, row.end)
        yield slice(at, stop), slice(left, stop)
        before, at = at, start + len(row.sample.output_ids)
        left = 0 if frontier.window is None else max(before - frontier.window + 1, 0)


def end_of(ids: list[int], mask_id: int, eot_id: int) -> int:
    """How many ids of a block a sample has if it ends there: with an EoT, all before it filled; else 0."""
    stop = ids.index(eot_id) + 1 if eot_id in ids else 0
    return 0 if mask_id in ids[:stop] else stop
