"""Whether a row may be trusted: VALID, or INVALID with the reasons.

Reads what the records say of how they came about; computes no column.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, median, variance
from typing import NamedTuple

from l2pd_bench.records import Run
from l2pd_bench.report.board import TOO_FEW
from l2pd_bench.report.pairing import batch_count
from l2pd_bench.schema import Sample
from l2pd_bench.stats import CONFIDENCE

FEWEST_SAMPLES = 10  # no claim is made on fewer
DRIFT = 0.1  # share by which the machine's speed may change while rows take turns
FORCED = 0.1  # share of a row's forwards after which the engine may have chosen in the strategy's stead
BLOCKS = 10  # of either half of a session, whose medians are compared


class Drift(NamedTuple):
    """Seconds per unit of work in the later half of a session over those in the earlier one, with its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """Whether the whole interval lies beyond what is allowed."""
        return self.low > 1 + DRIFT or self.high < 1 / (1 + DRIFT)


Drifts = Mapping[tuple[str, str], Drift]  # by session and task: what has taken turns


def drifts(runs: Sequence[Run]) -> Drifts:
    """How the machine's speed changed while the runs of a task took turns in a process.

    A sample's seconds over those that its forwards and FLOPs let expect in its row, in the
    order of time; medians of blocks of the two halves are compared by Welch's t on their
    logarithms. Nothing is said of fewer than two samples a block.
    """
    pooled: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        sessions: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in run.samples:
            if sample.timed and sample.status == "ok" and sample.seconds.decode > 0:
                sessions[run.manifest.segments[sample.segment].session].append(sample)
        for session, samples in sessions.items():
            pooled[session, str(run.manifest.protocol["task"])] += zip(
                (s.elapsed_s for s in samples), _costs(samples), strict=True
            )
    return {key: _drift([cost for _, cost in sorted(s)]) for key, s in pooled.items() if len(s) >= 4 * BLOCKS}


def invalid(run: Run, known: Drifts) -> tuple[str, ...]:
    """Why a run is not to be trusted; empty if nothing speaks against it."""
    reasons = []
    samples, segments = run.samples, run.manifest.segments
    for status, what in (("oom", "ran out of memory"), ("error", "ended in an error")):
        if count := sum(s.status == status for s in samples):
            reasons.append(f"{count} of {len(samples)} samples {what}")
    if failed := next((s.error for s in segments if s.error), None):
        reasons.append(f"a decode failed: {failed.splitlines()[0][:120]}")
    if foreign := sorted({program for segment in segments for program in segment.foreign}):
        reasons.append(f"other programs computed on the device: {', '.join(foreign)}")
    if differing := sum(s.alone.differing for s in segments if s.alone):
        total = sum(s.alone.samples for s in segments if s.alone)
        reasons.append(f"tokens depend on the batch: {differing} of {total} samples came out otherwise when alone")
    forwards = sum(s.nfe.total for s in samples)
    forced = sum(s.forced_commits for s in samples)
    if forced > FORCED * forwards:
        reasons.append(
            f"after {100 * forced / forwards:.0f} % of its forwards the strategy chose nothing, and the engine did"
        )
    task = str(run.manifest.protocol["task"])
    found = {s.session: known[s.session, task] for s in segments if (s.session, task) in known}
    if shown := [d for d in found.values() if d.is_shown]:
        worst = max(shown, key=lambda d: abs(math.log(d.ratio)))
        reasons.append(
            f"the machine's speed drifted: seconds per work changed by {100 * (worst.ratio - 1):+.0f} % "
            f"({100 * (worst.low - 1):+.0f} to {100 * (worst.high - 1):+.0f}) within a session"
        )
    if len(samples) < FEWEST_SAMPLES:
        reasons.append(f"{TOO_FEW}: {len(samples)}, expected at least {FEWEST_SAMPLES}")
    elif (batches := batch_count(run)) < FEWEST_SAMPLES:
        reasons.append(f"{TOO_FEW}: {len(samples)} in {batches} turns, expected at least {FEWEST_SAMPLES} turns")
    return tuple(reasons)


def _costs(samples: Sequence[Sample]) -> Sequence[float]:
    """Seconds of each sample over what is to be expected of it.

    Expected are so many seconds for a forward over the whole canvas, for one over a window,
    and for a FLOP, as fits the samples best; else long items would look like a slow machine.
    """
    import numpy as np
    from scipy.optimize import nnls

    seconds = np.array([s.seconds.decode for s in samples])
    work = np.array([(s.nfe.full, s.nfe.window, s.flops) for s in samples], dtype=np.float64)
    scale = np.maximum(work.max(axis=0), 1.0)
    rates, _ = nnls(work / scale / seconds[:, None], np.ones(len(samples)))
    found: Sequence[float] = (seconds / (work / scale @ rates)).tolist()
    return found


def _drift(costs: Sequence[float]) -> Drift:
    from scipy.special import stdtrit

    half = len(costs) // 2
    earlier, later = (
        [math.log(median(part[i * len(part) // BLOCKS : (i + 1) * len(part) // BLOCKS])) for i in range(BLOCKS)]
        for part in (costs[:half], costs[half:])
    )
    shares = [variance(part) / BLOCKS for part in (earlier, later)]
    difference, spread = mean(later) - mean(earlier), math.sqrt(sum(shares))
    if spread == 0:
        return Drift(*[math.exp(difference)] * 3)  # nothing varies
    freedom = sum(shares) ** 2 / (sum(share**2 for share in shares) / (BLOCKS - 1))
    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * spread
    return Drift(math.exp(difference), math.exp(difference - reach), math.exp(difference + reach))
