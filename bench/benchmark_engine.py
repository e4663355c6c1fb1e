"""`l2pd-bench bench engine`: the loop's own cost, how near a step is to the device's limits, caches, batches.

The strategy is `fixed-step`: it takes as many forwards whatever the model says. A step of
a block after its first is timed as a difference: with two tokens per step instead of one,
half of such steps are missing, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.benchmark_forwards import Rates, bytes_read, measure_rates, record
from l2pd_bench.benchmark_setup import Setup
from l2pd_bench.decoded import Decoded
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import Host
from l2pd_bench.registry import load_strategy
from l2pd_bench.schema import turn_of

CACHES = ("none", "dual")
ALONE = 2  # samples at batch 1
PER_NFE, OVERHEAD, BATCH_GAIN, STEP = 1.05, 0.03, 5.0, 1.4  # targets
GAIN_AT = 16  # the batch size that BATCH_GAIN is for
MANY = 4  # batches of the throughput figure

Case = tuple[str, int]  # cache, batch size


class Run(NamedTuple):
    """Some decodes, one after another: their sums."""

    decode_s: float
    model_s: float
    samples: list[Decoded]
    batch: int

    @property
    def forwards(self) -> float:
        """How many there were; all rows of a batch take each together."""
        return sum(s.nfe_full + s.nfe_window for s in self.samples) / self.batch

    @property
    def flops(self) -> int:
        """Of all samples."""
        return sum(s.flops for s in self.samples)


class Turn(NamedTuple):
    """What one case takes, measured side by side."""

    run: Run
    bare_s: float  # the same forwards alone
    half: Run  # the same with two tokens per step


def measure_engine(rounds: int, setup: Setup) -> list[Figure]:
    """All figures, by interleaved rounds."""
    host, sizes = setup.load(), setup.batch_sizes
    weights = bytes_read(host)
    if setup.block_length < 2:
        raise UsageError("block-length: got 1, expected at least 2, as a block's later steps are measured")
    one, two = (load_strategy(f"fixed-step:k={k}")[0] for k in (1, 2))
    prompts = setup.prompts(host, max(*sizes, ALONE))
    cases = [(cache, batch) for cache in setup.caches or CACHES for batch in sizes]
    groups = {b: [prompts[:b]] if b > 1 else [[p] for p in prompts[:ALONE]] for b in sizes}
    recorded = {
        (cache, b): [record(host, one, group, setup.settings(cache)) for group in groups[b]] for cache, b in cases
    }

    def run(strategy: object, cache: str, batch: int) -> Run:
        settings = setup.settings(cache)
        parts = [decode(host, strategy, g, range(len(g)), settings) for g in groups[batch]]  # type: ignore[arg-type]
        samples = [sample for part in parts for sample in part.samples]
        return Run(sum(p.decode_s for p in parts), sum(p.model_s for p in parts), samples, batch)

    seen: dict[Case, list[Turn]] = {case: [] for case in cases}
    rates: list[Rates] = []
    for turn in range(rounds + 1):
        at = turn % len(cases)
        for case in cases[at:] + cases[:at] if turn else cases[::-1]:  # what grows has its size after the warm-up
            seen[case].append(Turn(run(one, *case), sum(r.replay() for r in recorded[case]), run(two, *case)))
        rates.append(measure_rates(host))
    seen = {case: turns[1:] for case, turns in seen.items()}  # the first turn was the warm-up
    figures = _own_cost(seen) + _limits(seen, rates[1:], weights, on_device=host.device.type != "cpu")
    figures += _gains(seen, sizes)
    if host.is_trained and {1, GAIN_AT} <= {*sizes} and ("dual", 1) in seen:
        figures += _throughput(host, rounds, setup)
    return figures


def _own_cost(seen: Mapping[Case, Sequence[Turn]]) -> list[Figure]:
    figures = []
    for (cache, batch), turns in seen.items():
        label, alone = f"cache {cache}, batch {batch}", batch == 1
        figures += [
            Figure(
                f"time per NFE / bare forward, {label}",
                [t.run.decode_s / t.bare_s for t in turns],
                at_most=PER_NFE if alone else None,
            ),
            Figure(
                f"overhead: (decode - model) / decode, {label}",
                [1 - t.run.model_s / t.run.decode_s for t in turns],
                at_most=OVERHEAD if alone else None,
            ),
        ]
    return figures


def _limits(
    seen: Mapping[Case, Sequence[Turn]], rates: Sequence[Rates], weights: int, *, on_device: bool
) -> list[Figure]:
    """Against the floor: FLOPs at the rate of a large product, or weights at that of a large copy."""
    figures = []
    for (cache, batch), turns in seen.items():
        label = f"cache {cache}, batch {batch}"
        both = list(zip(turns, rates, strict=True))
        floors = [max(t.run.flops / r.flops, t.run.forwards * weights / r.bytes) for t, r in both]
        figures.append(
            Figure(f"decode / floor, {label}", [t.run.decode_s / f for (t, _), f in zip(both, floors, strict=True)])
        )
        if cache != "dual":
            continue
        steps_s = [(t.run.decode_s - t.half.decode_s) / (t.run.forwards - t.half.forwards) for t in turns]
        step_flops = (turns[0].run.flops - turns[0].half.flops) / (turns[0].run.forwards - turns[0].half.forwards)
        read = [s / (weights / r.bytes) for s, r in zip(steps_s, rates, strict=True)]
        made = [s / (step_flops / r.flops) for s, r in zip(steps_s, rates, strict=True)]
        figures += [
            Figure(f"in-block step, ms, {label}", [s * 1e3 for s in steps_s]),
            Figure(
                f"in-block step / reading the weights, {label}",
                read,
                at_most=STEP if on_device and batch == 1 else None,
            ),
            Figure(f"in-block step / its FLOPs, {label}", made),
            Figure(f"samples per second, {label}", [len(t.run.samples) / t.run.decode_s for t in turns]),
        ]
        if batch == min(b for _, b in seen):
            balance = [weights / r.bytes / (step_flops / batch / r.flops) for r in rates]
            figures.append(Figure(f"an in-block step is compute-bound from batch, cache {cache}", balance))
    figures.append(Figure("a large product, TFLOP/s", [r.flops / 1e12 for r in rates]))
    figures.append(Figure("a large copy, GB/s", [r.bytes / 1e9 for r in rates]))
    return figures


def _gains(seen: Mapping[Case, Sequence[Turn]], sizes: Sequence[int]) -> list[Figure]:
    each = {case: [t.run.decode_s / len(t.run.samples) for t in turns] for case, turns in seen.items()}
    caches = list(dict.fromkeys(cache for cache, _ in seen))
    figures = []
    for b in sizes if {*CACHES} <= {*caches} else ():
        ratio = [n / d for n, d in zip(each["none", b], each["dual", b], strict=True)]
        figures.append(Figure(f"dual / none, samples per second, batch {b}", ratio))
    if 1 not in sizes:
        return figures
    for cache in caches:
        for b in (b for b in sizes if b > 1):
            ratio = [o / m for o, m in zip(each[cache, 1], each[cache, b], strict=True)]
            target = BATCH_GAIN if (cache, b) == ("dual", GAIN_AT) else None
            figures.append(Figure(f"batch {b} / batch 1, samples per second, cache {cache}", ratio, at_least=target))
    return figures


def _throughput(host: Host, rounds: int, setup: Setup) -> list[Figure]:
    """What a user of batches gains: samples that end when they are done, with `threshold`."""
    strategy, _ = load_strategy("threshold")
    prompts, settings = setup.prompts(host, MANY * GAIN_AT), setup.settings("dual", "stop")
    ratios = []
    for _ in range(rounds + 1):
        spent = {}
        for b in (1, GAIN_AT):  # turn by turn, as a run decodes them
            turns = [prompts[at : at + turn_of(b)] for at in range(0, len(prompts), turn_of(b))]
            spent[b] = sum(decode(host, strategy, t, range(len(t)), settings, slots=b).decode_s for t in turns)
        ratios.append(spent[1] / spent[GAIN_AT])
    name = f"batch {GAIN_AT} / batch 1, samples per second, cache dual, EoT stop, threshold, {len(prompts)} samples"
    return [Figure(name, ratios[1:], at_least=BATCH_GAIN)]
