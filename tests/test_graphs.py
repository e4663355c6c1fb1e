"""Recorded forwards: here "recorded" means done again on the same memory, which needs no GPU; one test needs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import write
from torch import Tensor

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.attention import Attention
from l2pd_bench.hosts.graphs import BUCKET, Graphs
from l2pd_bench.hosts.pretrained import PretrainedHost
from l2pd_bench.memory import free
from l2pd_bench.registry import load_host, load_strategy

GEN, BLOCK = 48, 16
PROMPTS = [[7, 8, 9], [5, 6, 7, 8, 9, 10, 11], [9, 9], [6] * 5, [12, 9, 4]]  # the last as long as the first
LONG = [8] * BUCKET  # with it a canvas needs another bucket


class Recorder:
    """Records by keeping the function: its replay writes what it returns into the memory of the first time."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """See `graphs.Record`."""
        made = step()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            made.copy_(step())

        return made, replay


def give(host: Any, made: Graphs) -> None:
    """Its sessions replay from now on."""
    host.attention, host._attention, host._graphs = "sdpa-graphs", Attention("sdpa-graphs"), made


@pytest.fixture(scope="module", params=["llada", "dream"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of each family: logits of a place, and of the one left of it."""
    return write(tmp_path_factory.mktemp(request.param), request.param).folder


def host_of(folder: Path) -> PretrainedHost:
    """It, in float32."""
    host = load_host(str(folder), device="cpu", dtype="float32")
    assert isinstance(host, PretrainedHost)
    return host


def both(
    folder: Path, rule: str, prompts: list[list[int]], settings: DecodeSettings, slots: int
) -> tuple[BatchDecoded, BatchDecoded, Recorder]:
    """A decode without and with graphs, and what was recorded."""
    recorder, strategy = Recorder(), load_strategy(rule)[0]
    plain = decode(host_of(folder), strategy, prompts, range(len(prompts)), settings, slots=slots)
    host = host_of(folder)
    give(host, Graphs(host.model, recorder))
    return plain, decode(host, strategy, prompts, range(len(prompts)), settings, slots=slots), recorder


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("rule", ["fixed-step:k=3", "threshold:tau=0.05"])
@pytest.mark.parametrize("eot", ["decode", "predict"])
def test_a_replayed_decode_equals_a_computed_one(folder: Path, rule: str, eot: str, slots: int) -> None:
    """Tokens, NFE and all counts are the same, alone and in company, at any block and with rows cut short."""
    settings = DecodeSettings(GEN, BLOCK, "dual", eot)
    plain, replayed, recorder = both(folder, rule, PROMPTS, settings, slots)

    assert replayed.samples == plain.samples
    assert recorder.replayed > recorder.recorded > 0


def test_one_graph_serves_all_blocks_of_all_samples(folder: Path) -> None:
    """Alone, five prompts of four lengths and three blocks each need one recording; a longer canvas one more."""
    settings = DecodeSettings(GEN, BLOCK, "dual")
    recorder, rule, host = Recorder(), load_strategy("fixed-step:k=4")[0], host_of(folder)
    give(host, Graphs(host.model, recorder))
    short = [decode(host, rule, [prompt], [0], settings).samples for prompt in PROMPTS]
    once = recorder.recorded
    steps = len(PROMPTS) * (GEN // BLOCK) * (BLOCK // 4 - 1)
    replayed = recorder.replayed
    long = decode(host, rule, [LONG], [0], settings)
    again = decode(host, rule, [PROMPTS[0]], [0], settings)

    assert once == 1 and replayed == steps
    assert recorder.recorded == 3  # a room for the longer one; in it, one graph more for short ones
    assert [*short, long.samples, again.samples] == [
        decode(host_of(folder), rule, [p], [0], settings).samples for p in (*PROMPTS, LONG, PROMPTS[0])
    ]


def test_what_is_not_a_block_alone_is_computed(folder: Path) -> None:
    """Nothing is recorded where whole canvases or suffixes are fed."""
    for cache, expected in (("none", 0), ("prefix", 1)):  # prefix: the last block has nothing right of it
        _, _, recorder = both(folder, "fixed-step:k=4", PROMPTS[:1], DecodeSettings(BLOCK * 2, BLOCK, cache), 1)
        assert recorder.recorded == expected


def test_any_order_of_forwards(folder: Path) -> None:
    """Other blocks, ends and slots, and the same once more: as a session computes them, and nobody writes to them."""
    ids, padding = torch.randint(5, 20, (2, 32), generator=torch.Generator().manual_seed(0)), [0, 3]
    steps = [(8, [32, 32]), (8, [32, 32]), (8, [32, 28]), (16, [32, 28]), (8, [32, 32])]
    replaying, found = host_of(folder), []
    give(replaying, Graphs(replaying.model, Recorder()))
    for host in (replaying, host_of(folder)):
        session, seen, memory = host.open(padding, 32, cached=True), [], set()
        for start, lengths in steps:
            block = [slice(start, start + 8)] * 2
            with torch.inference_mode():
                session.forward(ids, [0, 0], block, rows=[0, 1], lengths=[32, 32])
                for shift in (0, 1):  # other tokens at the same place
                    fed = ids[:, start + shift : start + shift + 8]
                    seen.append(session.forward(fed, [start] * 2, block, rows=[0, 1], lengths=lengths))
                    memory.add(session.room.store.data_ptr())  # a graph is bound to it
                    if start == 8:
                        own = {"rows": [1], "lengths": lengths[1:], "slot": 1}
                        seen.append(session.forward(fed[1:], [start], block[1:], **own))
        found.append(seen)
        assert len(memory) == 1

    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


def test_a_room_is_one_sessions_and_begins_empty(folder: Path) -> None:
    """What the session before it left, NaN even, is gone."""
    host = host_of(folder)
    made = Graphs(host.model, Recorder())
    room = made.lend(2, 40)
    assert room.store is not None
    room.store.fill_(torch.nan)
    room.left_of = [8, None]
    again = made.lend(2, 30)

    assert again is room and again.store is not None and made.lend(3, 40) is not room
    assert not again.store.any() and again.left_of == [None, None]
    assert made.lend(1, 200).slots == 3  # it only grows, or a decode alone would cost a batch its graphs
    free(host.device)
    assert made.lend(1, 8).slots == 1


def test_one_session_at_a_time(folder: Path) -> None:
    """A session whose room another one has is an error, not wrong logits."""
    host, ids = host_of(folder), torch.full((1, 16), 7)
    give(host, Graphs(host.model, Recorder()))
    first, second = (host.open([0], 16, cached=True) for _ in range(2))
    told: dict[str, Any] = {"rows": [0], "lengths": [16]}
    with torch.inference_mode():
        second.forward(ids, [0], [slice(8, 16)], **told)
        with pytest.raises(RuntimeError, match="one at a time"):
            first.forward(ids, [0], [slice(8, 16)], **told)


def test_a_decode_alone_costs_a_batch_no_graph(folder: Path) -> None:
    """As after a warm-up, which ends with samples alone: what was recorded before is still there."""
    host, recorder, rule = host_of(folder), Recorder(), load_strategy("fixed-step:k=4")[0]
    give(host, Graphs(host.model, recorder))
    recorded = []
    for count in (3, 1, 3, 1):
        decode(host, rule, PROMPTS[:1] * count, range(count), DecodeSettings(BLOCK, BLOCK, "dual"))
        recorded.append(recorder.recorded)
    assert recorded == [1, 2, 2, 2]


def test_a_replay_that_differs_is_an_error(folder: Path) -> None:
    """Before a token is picked from it, the first replay is compared with the forward it was recorded from."""
    for change in (0.1, None):  # other logits; none at all

        def wrong(step: Callable[[], Tensor], change: float | None = change) -> tuple[Tensor, Callable[[], None]]:
            made = step()

            def replay() -> None:
                if change is not None:
                    made.copy_(step()).select(-1, 0).add_(change)

            return made, replay

        host = host_of(folder)
        give(host, Graphs(host.model, wrong))
        with pytest.raises(UsageError, match=r"got 'sdpa-graphs', whose replay gives other logits .* use --attn sdpa"):
            decode(host, load_strategy("fixed-step")[0], PROMPTS[:1], [0], DecodeSettings(BLOCK, BLOCK, "dual"))


def test_graphs_need_cuda(folder: Path) -> None:
    """Elsewhere the choice is refused with what to do."""
    with pytest.raises(UsageError, match=r"attn: got 'sdpa-graphs', which records CUDA graphs, on cpu; leave it out"):
        load_host(str(folder), device="cpu", attention="sdpa-graphs")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs(folder: Path) -> None:
    """On the device itself: the tokens of replayed decodes are those of computed ones, in float32."""
    settings, rule = DecodeSettings(GEN, BLOCK, "dual"), load_strategy("fixed-step:k=3")[0]
    computed, replayed = (
        decode(
            load_host(str(folder), device="cuda", dtype="float32", attention=name), rule, PROMPTS, range(5), settings
        )
        for name in ("sdpa", "sdpa-graphs")
    )
    assert replayed.samples == computed.samples
