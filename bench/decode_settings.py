"""How to decode, whatever the strategy: lengths, cache, EoT policy, temperature; validated before anything runs.

It knows nothing of how any of it is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from l2pd_bench.cache import POLICIES
from l2pd_bench.errors import PluginError, UsageError, unknown
from l2pd_bench.strategies.base import Strategy

EOT_POLICIES = {
    "decode": "fill the whole canvas",
    "stop": "a sample ends once an EoT is committed and everything before it is filled",
    "predict": "the canvas is cut behind an EoT once one is predicted (Learn2PD's EoTP)",
}


@dataclass(frozen=True)
class DecodeSettings:
    """Everything about decoding that is not the strategy; validated on creation."""

    gen_length: int = 128
    block_length: int = 32
    cache: str = "none"
    eot: str = "decode"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError for a value that cannot be decoded with."""
        for name in ("gen_length", "block_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if self.gen_length % self.block_length:
            below = self.gen_length // self.block_length * self.block_length
            near = " or ".join(str(n) for n in (below, below + self.block_length) if n)
            raise UsageError(
                f"gen-length: got {self.gen_length}, which block-length {self.block_length} does not divide; try {near}"
            )
        if self.cache not in POLICIES:
            raise unknown("cache", self.cache, POLICIES)
        if self.eot not in EOT_POLICIES:
            raise unknown("eot", self.eot, EOT_POLICIES)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature: got {self.temperature}, expected a finite number >= 0")


def check_frontier(strategy: Strategy, settings: DecodeSettings, batch_size: int) -> None:
    """Raise UsageError if a strategy that decodes without blocks is asked for what only blocks have."""
    if strategy.frontier() is None:
        return
    if strategy.uses_reference:
        raise PluginError(f"strategy '{strategy.name}': got both uses_reference and frontier(), expected at most one")
    why = f"strategy '{strategy.name}': decodes from a frontier of its own, without blocks"
    if settings.cache != "none":
        raise UsageError(f"{why}; got cache '{settings.cache}', expected none, as what it reuses is its own parameter")
    if batch_size != 1:
        raise UsageError(f"{why}; got a batch of {batch_size}, expected 1, as every sample's frontier moves on its own")
