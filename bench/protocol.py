"""The locked settings: everything that decides a number except the strategy.

A leaderboard ranks within one protocol hash. The sample limit is not part of it: rows
are compared over the items they share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.hosts.base import Host
from l2pd_bench.schema import UNGRADED
from l2pd_bench.seal import hash_of
from l2pd_bench.strategies.base import Frontier
from l2pd_bench.tasks.base import Task


class HostFacts(NamedTuple):
    """What records say of a host; another process can tell it."""

    name: str
    revision: str
    weights_hash: str
    dtype: str
    attention: str
    device: str  # see `device_kind`
    is_chat: bool
    is_trained: bool
    trained_tasks: frozenset[str] | None


def facts_of(host: Host) -> HostFacts:
    """What is to be recorded of a host."""
    return HostFacts(
        name=host.name,
        revision=host.revision,
        weights_hash=host.weights_hash,
        dtype=str(host.dtype).removeprefix("torch."),
        attention=host.attention,
        device=device_kind(host),
        is_chat=host.is_chat,
        is_trained=host.is_trained,
        trained_tasks=host.trained_tasks,
    )


@dataclass(frozen=True)
class Protocol:
    """One setting, as it stands in every record (all values are JSON scalars)."""

    model: str
    revision: str
    weights_hash: str
    dtype: str
    attention: str
    device: str  # the kind of device: "cpu", or the accelerator's name
    task: str
    data_hash: str
    few_shot: int
    prompt_format: str
    grading: str
    gen_length: int
    block_length: int
    schedule: str  # "blocks", or how a strategy's own frontier moves
    cache: str
    eot: str
    temperature: float
    seed: int
    batch_size: int

    @property
    def hash(self) -> str:
        """See `seal.hash_of`."""
        return hash_of(asdict(self))


def protocol_of(
    host: HostFacts, task: Task, settings: DecodeSettings, *, frontier: Frontier | None, seed: int, batch_size: int
) -> Protocol:
    """The protocol of decoding `task` on `host` under `settings`; a strategy's frontier is a setting of its own."""
    return Protocol(
        model=host.name,
        revision=host.revision,
        weights_hash=host.weights_hash,
        dtype=host.dtype,
        attention=host.attention,
        device=host.device,
        task=task.name,
        data_hash=task.data_hash,
        few_shot=task.few_shot,
        prompt_format=task.prompt_format,
        grading=task.grading if host.is_trained else UNGRADED,
        gen_length=settings.gen_length,
        block_length=settings.block_length,
        schedule="blocks" if frontier is None else f"frontier, W {frontier.window}, M {frontier.lookahead}",
        cache=settings.cache,
        eot=settings.eot,
        temperature=settings.temperature,
        seed=seed,
        batch_size=batch_size,
    )


def device_kind(host: Host) -> str:
    """What the host computes on: rows of different kinds of device are never ranked together."""
    if host.device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(host.device)
    return host.device.type
