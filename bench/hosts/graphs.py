"""Forwards that feed a block alone, recorded once as CUDA graphs and replayed: no launch by Python.

Shapes and places in memory are static: rows stand where index tensors say, keys are
attended to up to a multiple of `BUCKET` columns, what a row does not have is masked. Such
a graph serves every block of every sample, for as many rows and columns. All other
forwards are computed as ever. What records is given, so that all this can be tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.room import Room
from l2pd_bench.hosts.transformer import Transformer

BUCKET = 128  # columns: a graph for every so many, against columns that are masked in vain

Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
_CLOSE = {torch.float32: 1e-4}  # of the largest logit; other dtypes: 2e-2


class CudaRecorder:
    """Records what a function does on its device. All graphs share memory, as no two are replayed at once.

    A graph's own output must be read before another graph is replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """What `step` returned, and what does it again into the same memory."""
        with torch.cuda.device(self._device):  # streams are the current device's, which may be another one
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):  # libraries make their workspaces when first called, which cannot be recorded
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                made = step()

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return made, replay


class Places(NamedTuple):
    """Where B rows of N columns stand, in tensors."""

    at: Tensor  # (B, N) int64: where keys and values are kept
    positions: Tensor  # (B, N) int64
    attend: Tensor  # (B, 1, 1, K) bool


Told = tuple[list[int], list[int], list[int]]  # of each row: the first column fed, the padding, where it ends


@dataclass
class _Graph:
    """One recorded forward, with what is its own in memory."""

    ids: Tensor  # (B, N) int64
    places: Places
    told: Told  # what the places were made of
    logits: Tensor  # (B, N, V)
    replay: Callable[[], None]


class Graphs:
    """The graphs of one model, and the room they are bound to, which one session has at a time."""

    def __init__(self, model: Transformer, record: Record | None = None) -> None:
        self._model, self._record = model, record or CudaRecorder(model.embed.weight.device)
        self._room: Room | None = None
        self._made: dict[tuple[int, ...], _Graph] = {}  # by B, N, K
        self.lent = 0  # how often; who was lent the room before the last time must not go on
        _ALL.add(self)

    def lend(self, slots: int, length: int) -> Room:
        """An empty room for so many rows of `length` columns, or more of either."""
        room = self._room
        if room is None or room.slots < slots or room.length < length:
            slots, length = (slots, length) if room is None else (max(slots, room.slots), max(length, room.length))
            self.forget()
            room = self._room = Room(self._model, slots, bucket(length))
        room.clear()
        self.lent += 1
        return room

    def forget(self) -> None:
        """Give back all that is kept."""
        self._made.clear()
        self._room = None

    def forward(
        self, ids: Tensor, told: Told, places: Callable[[], Places], compute: Callable[[Tensor, Places], Tensor]
    ) -> Tensor:
        """What `compute` makes of `ids` (B, N) and places: logits (B, N, V), which are the caller's.

        `compute` is called where there is no graph yet, `places` where they are not those of
        the graph's last forward. Raises UsageError if the first replay of a graph gives
        other logits than the forward it was recorded from.
        """
        key = (*ids.shape, bucket(max(told[2])))
        graph = self._made.get(key)
        if graph is None:
            graph = self._made[key] = self._recorded(ids.clone(), told, places(), compute)
            return graph.logits.clone()
        graph.ids.copy_(ids)
        if graph.told != told:
            for own, new in zip(graph.places, places(), strict=True):
                own.copy_(new)
            graph.told = told
        graph.replay()
        return graph.logits.clone()  # the next replay writes there

    def _recorded(self, ids: Tensor, told: Told, places: Places, compute: Callable[[Tensor, Places], Tensor]) -> _Graph:
        expected = compute(ids, places).clone()
        logits, replay = self._record(lambda: compute(ids, places))
        logits.fill_(torch.nan)  # or a replay that does nothing would pass
        replay()
        atol = _CLOSE.get(expected.dtype, 2e-2) * float(expected.abs().max())
        try:
            torch.testing.assert_close(logits, expected, rtol=0, atol=atol, equal_nan=True)
        except AssertionError as error:
            raise UsageError(
                "attn: got 'sdpa-graphs', whose replay gives other logits than the forward it was recorded from "
                f"({' '.join(str(error).split())}); expected the same, use --attn sdpa"
            ) from error
        return _Graph(ids, places, told, logits, replay)


_ALL: WeakSet[Graphs] = WeakSet()


def forget_all() -> None:
    """Give back what is kept for graphs anywhere in this process."""
    for graphs in list(_ALL):
        graphs.forget()


def bucket(length: int) -> int:
    """So many columns are attended to, of which the last are masked."""
    return -(-length // BUCKET) * BUCKET
