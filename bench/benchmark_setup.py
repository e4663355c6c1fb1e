"""What the benchmarks measure on: a model, a device, prompts and sizes.

It knows nothing of what is measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

from l2pd_bench.cache import policy
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import Host
from l2pd_bench.hosts.transformer import Transformer
from l2pd_bench.registry import load_host, load_task

TASK = "mini-math"
OPTIONS = {
    "batch_sizes": "batch-size",
    "caches": "cache",
    "attention": "attn",
}  # what is not called as it is on the command line


@dataclass(frozen=True)
class Setup:
    """A model by its spec, and the sizes of what it decodes. `prompt_length`: of random ids, None for real prompts."""

    model: str = "mini"
    weights: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    attention: str | None = None
    prompt_length: int | None = None
    gen_length: int = 128
    block_length: int = 32
    batch_sizes: tuple[int, ...] = (1, 16)
    caches: tuple[str, ...] = ()  # () are the benchmark's own

    def __post_init__(self) -> None:
        """Raise UsageError for sizes that are none; the rest is for the loader and the engine to refuse."""
        if self.device == "meta":
            raise UsageError("device: got 'meta', which computes nothing; try cpu")
        for name, least in (("prompt_length", self.prompt_length), ("batch_size", min(self.batch_sizes))):
            if least is not None and least < 1:
                raise UsageError(f"{name.replace('_', '-')}: got {least}, expected at least 1")
        for cache in self.caches:
            policy(cache)  # refuses unknown ones
        given: tuple[tuple[str, tuple[object, ...]], ...] = (("batch-size", self.batch_sizes), ("cache", self.caches))
        for name, values in given:
            if len(set(values)) < len(values):
                raise UsageError(f"{name}: got {', '.join(map(str, values))}, expected each once")

    @property
    def changed(self) -> list[str]:
        """The options that were given."""
        return [
            OPTIONS.get(f.name, f.name.replace("_", "-")) for f in fields(self) if getattr(self, f.name) != f.default
        ]

    def load(self) -> Host:
        """The model."""
        given = {name: getattr(self, name) for name in ("weights", "device", "dtype", "attention")}
        return load_host(self.model, **{name: value for name, value in given.items() if value is not None})

    def prompts(self, host: Host, count: int) -> list[list[int]]:
        """As many prompts, always the same ones; again from the first where the task has no more."""
        if self.prompt_length is None:
            items = load_task(TASK).items()
            return [host.encode(items[i % len(items)].prompt) for i in range(count)]
        rng, plain = random.Random(0), [i for i in range(host.vocab_size) if i not in (host.mask_id, host.eot_id)]
        return [rng.choices(plain, k=self.prompt_length) for _ in range(count)]

    def settings(self, cache: str, eot: str = "decode") -> DecodeSettings:
        """How to decode."""
        return DecodeSettings(gen_length=self.gen_length, block_length=self.block_length, cache=cache, eot=eot)


def network(host: Host) -> Transformer:
    """The weights of a host; a UsageError if it has none of our kind."""
    model = getattr(host, "model", None)
    if not isinstance(model, Transformer):
        raise UsageError(
            f"model: got '{host.name}', which has no weights to be timed; expected one such as mini or llada-8b"
        )
    return model
