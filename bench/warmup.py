"""What happens before a row's first timed batch: it is decoded, unrecorded, until its times repeat.

And for batches: whether a sample's tokens depend on what it was decoded with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.schema import Alone, Warmup

MOST_ROUNDS = 4
SAME = 0.1  # two rounds are equally long if the second differs from the first by at most this share
ALONE = 2  # samples of the first batch to decode alone as well


def warm_up(decode: Callable[[], BatchDecoded]) -> tuple[Warmup, BatchDecoded]:
    """Decode a batch at least twice, until two times in a row are equal, at most `MOST_ROUNDS` times."""
    decoded = decode()
    rounds, is_stable = 1, False
    while rounds < MOST_ROUNDS and not is_stable:
        before, decoded = decoded.decode_s, decode()
        rounds, is_stable = rounds + 1, abs(decoded.decode_s - before) <= SAME * before
    return Warmup(samples=len(decoded.samples), rounds=rounds, seconds=decoded.decode_s, is_stable=is_stable), decoded


def compare_alone(together: BatchDecoded, decode_one: Callable[[int], BatchDecoded]) -> Alone | None:
    """Whether the first samples of a batch come out the same by themselves; None for a batch of one."""
    if len(together.samples) < 2:
        return None
    first: Sequence[int] = range(min(ALONE, len(together.samples)))
    differing = sum(decode_one(i).samples[0].output_ids != together.samples[i].output_ids for i in first)
    return Alone(samples=len(first), differing=differing)
