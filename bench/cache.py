"""KV-cache policies: which columns are fed at each step, and which are reused.

After Fast-dLLM (arXiv 2505.22618). Every policy is a choice of window: what is fed gets
fresh keys and values, everything else keeps those of the block's first forward, which
feeds the whole canvas and also decodes the block's first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from l2pd_bench.errors import unknown


@dataclass(frozen=True)
class CachePolicy:
    """`window(block, length)` is what the steps after a block's first feed, as a slice of columns."""

    name: str
    summary: str
    window: Callable[[slice, int], slice]

    @property
    def reuses(self) -> bool:
        """Whether any forward feeds less than the whole canvas."""
        return self.name != "none"


POLICIES = {
    policy.name: policy
    for policy in (
        CachePolicy("none", "the whole canvas every step", lambda block, length: slice(0, length)),
        CachePolicy("prefix", "block and suffix; keys and values before the block are reused",
                    lambda block, length: slice(block.start, length)),
        CachePolicy("dual", "the block only; prefix and suffix are reused",
                    lambda block, length: slice(block.start, min(block.stop, length))),
    )
}  # fmt: skip


def policy(name: str) -> CachePolicy:
    """The policy of that name, or a UsageError listing the known ones."""
    if name not in POLICIES:
        raise unknown("cache", name, POLICIES)
    return POLICIES[name]
