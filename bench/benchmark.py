"""`l2pd-bench bench`: how much the harness itself costs, and what caches and batches gain.

Figures are ratios with their spread over the rounds: seconds on a shared machine mean
little, ratios taken side by side mean something. `engine` measures in one process, in
turns, the embedded model and the strategy `fixed-step`, whose forwards are known in
advance, so that the bare forwards can be repeated without the engine. `loading` and
`report` are in files of their own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import torch

from l2pd_bench.cache import policy
from l2pd_bench.canvas import Canvas
from l2pd_bench.engine import BatchDecoded, DecodeSettings, decode
from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.hosts.base import Host
from l2pd_bench.measure import environment, git_state
from l2pd_bench.registry import load_host, load_strategy, load_task

BATCH = 16
CASES = [(cache, batch) for cache in ("none", "dual") for batch in (1, BATCH)]


@dataclass(frozen=True)
class Figure:
    """One ratio: its rounds, and what it should be (`at_most` or `at_least`)."""

    name: str
    rounds: list[float]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return median(self.rounds)

    @property
    def verdict(self) -> str:
        """Whether the median meets the target."""
        if self.at_most is not None:
            return "met" if self.median <= self.at_most else "missed"
        if self.at_least is not None:
            return "met" if self.median >= self.at_least else "missed"
        return ""


def measure(what: str, rounds: int) -> list[Figure]:
    """Run a benchmark: `engine`, `loading` or `report`."""
    if rounds < 1:
        raise UsageError(f"rounds: got {rounds}, expected at least 1")
    benchmarks = {"engine": _engine, "loading": _loading, "report": _report}
    if what not in benchmarks:
        raise unknown("bench", what, benchmarks)
    return benchmarks[what](rounds)


def _report(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_report import PEAK_BYTES, SECONDS, measure_report

    figures = []
    for shape, seen in measure_report(rounds).items():
        figures.append(Figure(f"report on {shape}, seconds", [s["seconds"] for s in seen], at_most=SECONDS))
        peaks = [s["peak_bytes"] / 1e9 for s in seen]
        figures.append(Figure(f"report on {shape}, peak memory, GB", peaks, at_most=PEAK_BYTES / 1e9))
    return figures


def _loading(rounds: int) -> list[Figure]:
    from l2pd_bench.benchmark_loading import TARGET, measure_loading

    figures = []
    for dtype, seen in measure_loading(rounds).items():
        peaks = [one["peak"] / one["size"] for one in seen]
        figures.append(Figure(f"peak memory / weights in memory, {dtype}", peaks, at_most=TARGET))
        speed = [one["size"] / 1e9 / one["seconds"] for one in seen]
        figures.append(Figure(f"GB of weights per second, {dtype}", speed))
    return figures


def _engine(rounds: int) -> list[Figure]:
    host = load_host("mini", device="cpu")
    prompts = [host.encode(item.prompt) for item in load_task("mini-math").items()[:BATCH]]
    alone = prompts[:2]  # at batch 1, two samples are enough
    strategy, _ = load_strategy("fixed-step")

    def run(cache: str, batch: int) -> BatchDecoded:
        settings = DecodeSettings(cache=cache)
        if batch > 1:
            return decode(host, strategy, prompts, range(batch), settings)
        parts = [decode(host, strategy, [p], [0], settings) for p in alone]
        total = [sum(getattr(p, name) for p in parts) for name in ("decode_s", "model_s", "select_s")]
        return BatchDecoded([p.samples[0] for p in parts], *total)

    def bare(cache: str, batch: int) -> float:
        groups = [prompts] if batch > 1 else [[p] for p in alone]
        return sum(_bare_forwards(host, group, DecodeSettings(cache=cache)) for group in groups)

    seen: dict[tuple[str, int], list[tuple[BatchDecoded, float]]] = {case: [] for case in CASES}
    for turn in range(rounds + 1):
        at = turn % len(CASES)
        for case in CASES[at:] + CASES[:at]:
            seen[case].append((run(*case), bare(*case)))
    seen = {case: measured[1:] for case, measured in seen.items()}  # the first turn was the warm-up
    return _figures(seen)


def _figures(seen: dict[tuple[str, int], list[tuple[BatchDecoded, float]]]) -> list[Figure]:
    figures = []
    for cache, batch in CASES:
        runs = seen[cache, batch]
        label = f"cache {cache}, batch {batch}"
        figures += [
            Figure(
                f"overhead: (decode - model) / decode, {label}", [1 - r.model_s / r.decode_s for r, _ in runs], 0.05
            ),
            Figure(f"time per NFE / bare forward, {label}", [r.decode_s / bare for r, bare in runs], 1.10),
        ]
    per_sample = {c: [r.decode_s / len(r.samples) for r, _ in seen[c]] for c in CASES}
    for batch in (1, BATCH):
        none, dual = per_sample["none", batch], per_sample["dual", batch]
        figures.append(
            Figure(f"dual / none, samples per second, batch {batch}", [n / d for n, d in zip(none, dual, strict=True)])
        )
    for cache in ("none", "dual"):
        one, many = per_sample[cache, 1], per_sample[cache, BATCH]
        ratio = [o / m for o, m in zip(one, many, strict=True)]
        figures.append(Figure(f"batch {BATCH} / batch 1, samples per second, cache {cache}", ratio, at_least=3.0))
    return figures


@torch.inference_mode()
def _bare_forwards(host: Host, prompts: list[list[int]], settings: DecodeSettings) -> float:
    """Seconds of the forwards that `fixed-step` with one token per step makes, without the engine."""
    canvas = Canvas(prompts, range(len(prompts)), settings.gen_length, host.mask_id, host.device)
    cache = policy(settings.cache)
    began = perf_counter()
    session = host.open(canvas.padding, canvas.length, cached=cache.reuses)
    for at in range(canvas.start, canvas.length, settings.block_length):
        block = slice(at, at + settings.block_length)
        window = slice(0, canvas.length)
        for _ in range(settings.block_length):
            session.forward(canvas.ids[:, window], window.start, block)
            window = cache.window(block, canvas.length)
    return perf_counter() - began


def as_json(figures: list[Figure]) -> str:
    """Figures with machine and commit."""
    rows = [{**asdict(f), "median": f.median, "verdict": f.verdict} for f in figures]
    return json.dumps({"figures": rows, "environment": environment(), "git": git_state()}, indent=2)


def as_text(figures: list[Figure]) -> str:
    """Figures as lines: median, smallest and largest of the rounds, target."""
    lines = []
    for f in figures:
        target = f"<= {f.at_most:g}" if f.at_most is not None else f">= {f.at_least:g}" if f.at_least else "-"
        spread = f"{f.median:7.3f}  [{min(f.rounds):.3f} .. {max(f.rounds):.3f}]"
        lines.append(f"{f.name:<58} {spread:<28} target {target:<8} {f.verdict}")
    return "\n".join(lines)
