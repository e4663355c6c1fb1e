"""Decodes of a strategy that is tried out: what came of each, or how it failed.

Whatever a stranger's code raises is a finding. What follows from it is not known here
(`conformance.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getsourcefile
from typing import Literal, NamedTuple, cast

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.decoded import Decoded
from l2pd_bench.engine import STEP_CAP, decode
from l2pd_bench.errors import BenchError, PluginError
from l2pd_bench.hosts.base import Host
from l2pd_bench.probe import Witness, global_seed, probe_host, where_defined, where_raised
from l2pd_bench.registry import load_strategy
from l2pd_bench.strategies.base import Strategy

SETTINGS = DecodeSettings(gen_length=64, block_length=32)
PROMPTS = ("Ann", "Sort the line.\n1 Kim\n2 Bob", "What is 2 + 3?")  # of different lengths
MASKS = "return masks, never indices: rules.best(score, among, k) makes them"
END = "commit more positions than are remasked, or remask each position only so often"


class Attempt(NamedTuple):
    """One decode: its samples, or how it failed."""

    witness: Witness
    samples: Sequence[Decoded]
    fault: Literal["", "raised", "decision", "endless", "refused"] = ""
    detail: str = ""
    where: str | None = None


class Attempts:
    """Decodes with one instance of a strategy, on the probe of `mini` unless another host is named."""

    def __init__(self, strategy: Strategy, mini: Host) -> None:
        self.strategy = strategy
        self.mini = mini
        self.host = probe_host(mini)
        self.prompts = [mini.encode(prompt) for prompt in PROMPTS]
        self.baseline = load_strategy("fixed-step")[0]

    def decode(
        self,
        *,
        host: Host | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
        order: Sequence[int] = (0, 1, 2),
        settings: DecodeSettings = SETTINGS,
        global_random: int = 0,
    ) -> Attempt:
        """Decode with the one instance; seeds go with prompts. Whatever goes wrong is in the attempt."""
        witness = Witness(self.strategy)
        chosen = [self.prompts[i] for i in order] if prompts is None else prompts
        try:
            with global_seed(global_random):
                model, seeds = host or self.host, order[: len(chosen)]
                references = self.references(model, chosen, seeds, settings)
                done = decode(model, cast(Strategy, witness), chosen, seeds, settings, references)
        except Exception as error:  # noqa: BLE001  # a stranger's code: whatever it raises is the finding
            own = where_raised(error, getsourcefile(type(self.strategy)))
            where = own or where_defined(witness.rule, type(self.strategy))
            if witness.stage != "decision":
                is_refusal = witness.stage == "begin" and isinstance(error, BenchError)
                return Attempt(witness, [], "refused" if is_refusal else "raised", line_of(error), where)
            if witness.views[-1].step + 1 >= STEP_CAP * settings.block_length:
                return Attempt(witness, [], "endless", f"{error}; {END}", where)
            text = str(error) if isinstance(error, PluginError) else line_of(error)
            return Attempt(witness, [], "decision", text if witness.stage == "tokens" else f"{text}; {MASKS}", where)
        return Attempt(witness, done.samples)

    def references(
        self, host: Host, prompts: Sequence[Sequence[int]], seeds: Sequence[int], settings: DecodeSettings
    ) -> list[list[int]] | None:
        """What an oracle is shown."""
        if not self.strategy.uses_reference:
            return None
        return [s.output_ids for s in decode(host, self.baseline, prompts, seeds, settings).samples]


def line_of(error: BaseException) -> str:
    """An error in one line, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"
