"""A strategy's own models: loaded once for a host, on its device, and counted at every call.

Their seconds are in the strategy's, as they are called from within it. What they are for
is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from l2pd_bench.hosts.base import Host
from l2pd_bench.strategies.base import Scorer

_MODULES: WeakKeyDictionary[Host, dict[str, nn.Module]] = WeakKeyDictionary()
_SCORERS: WeakKeyDictionary[Host, dict[str | None, Any]] = WeakKeyDictionary()


class Auxiliary:
    """What the strategy of one sample may use besides the host; its canvas has `length` columns, `padding` unused."""

    def __init__(self, host: Host, padding: int, length: int) -> None:
        self._host, self._padding, self._length = host, padding, length
        self._calls = self._flops = 0

    def module(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """See `Context.module`. A call is one forward, and each parameter two operations per row."""
        known = _MODULES.setdefault(self._host, {})
        if name not in known:
            known[name] = build().to(self._host.device).eval().requires_grad_(False)
        return _Counted(known[name], self._count)

    def scorer(self, name: str | None) -> Scorer:
        """See `Context.scorer`."""
        from l2pd_bench.scorer import SampleScorer, load_scorer

        known = _SCORERS.setdefault(self._host, {})
        if name not in known:
            known[name] = load_scorer(name, self._host)
        return SampleScorer(known[name], self._padding, self._length, self._count)

    def take(self) -> tuple[int, int]:
        """Forwards since the last call, and their floating-point operations; begins anew."""
        calls, flops = self._calls, self._flops
        self._calls = self._flops = 0
        return calls, flops

    def _count(self, flops: int) -> None:
        self._calls += 1
        self._flops += flops


class _Counted(nn.Module):
    """A module whose calls are counted."""

    def __init__(self, inner: nn.Module, count: Callable[[int], None]) -> None:
        super().__init__()
        self.inner, self._count = inner, count
        self._flops = 2 * sum(p.numel() for p in inner.parameters())

    def forward(self, *args: Any) -> Any:
        """The module's own."""
        self._count(self._flops)
        return self.inner(*args)
