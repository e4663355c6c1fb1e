"""The forwards of a decode by themselves: recorded once, replayed without engine and strategy.

And how fast they could be at best: by the FLOPs of a large product and the bytes of a
large copy, measured on the same device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from l2pd_bench.benchmark_setup import network
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.hosts.base import Host
from l2pd_bench.measure import Stopwatch
from l2pd_bench.strategies.base import Strategy

REPEATS = 5


class Call(NamedTuple):
    """One call of a session: which one, its method, what it was given."""

    session: int
    method: str
    words: tuple[Any, ...]
    named: dict[str, Any]


class Recorder:
    """Stands between the engine and a host, and keeps every call of a session; all else is the host's own."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.opened: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def open(self, *words: Any, **named: Any) -> Any:
        """See `Host.open`."""
        self.opened.append((_copied(words), _copied(named)))
        return _RecordedSession(self._host.open(*words, **named), len(self.opened) - 1, self.calls)

    @torch.inference_mode()
    def replay(self) -> float:
        """Seconds of the same calls, with the same ids, on sessions opened anew."""
        watch = Stopwatch(self._host.device)
        sessions: list[Any] = [self._host.open(*words, **named) for words, named in self.opened]
        for call in self.calls:
            getattr(sessions[call.session], call.method)(*call.words, **call.named)
        return watch.finish()[0]


class _RecordedSession:
    def __init__(self, session: Any, number: int, calls: list[Call]) -> None:
        self._session, self._number, self._calls = session, number, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if not callable(found):
            return found

        def call(*words: Any, **named: Any) -> Any:
            self._calls.append(Call(self._number, name, _copied(words), _copied(named)))
            return found(*words, **named)

        return call


def record(host: Host, strategy: Strategy, prompts: Sequence[Sequence[int]], settings: DecodeSettings) -> Recorder:
    """The forwards of this decode."""
    recorder = Recorder(host)
    decode(cast(Host, recorder), strategy, prompts, range(len(prompts)), settings)
    return recorder


def _copied(value: Any) -> Any:
    """As it is now: the engine goes on to change its tensors and lists."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, list | tuple) else value


class Rates(NamedTuple):
    """What the device does per second at best."""

    flops: float
    bytes: float  # read and written


@torch.inference_mode()
def measure_rates(host: Host) -> Rates:
    """The best of some large products, in the model's dtype, and of some large copies."""
    on_cpu = host.device.type == "cpu"
    n, count = (1024, 1 << 25) if on_cpu else (8192, 1 << 30)
    a, b = (torch.ones(n, n, dtype=host.dtype, device=host.device) for _ in range(2))
    source, target = (torch.ones(count, dtype=torch.uint8, device=host.device) for _ in range(2))
    product = min(_seconds(lambda: torch.mm(a, b), host.device) for _ in range(REPEATS + 1))
    copied = min(_seconds(lambda: target.copy_(source), host.device) for _ in range(REPEATS + 1))
    return Rates(2 * n**3 / product, 2 * count / copied)


def _seconds(call: Any, device: torch.device) -> float:
    watch = Stopwatch(device)
    call()
    return watch.finish()[0]


def bytes_read(host: Host) -> int:
    """Bytes of weights that every forward reads: all but the embedding, of which it takes a few rows."""
    model = network(host)
    return sum(p.numel() * p.element_size() for p in model.parameters()) - (
        model.embed.weight.numel() * model.embed.weight.element_size()
    )
