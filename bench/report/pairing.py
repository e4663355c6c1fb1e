"""Compares one run with a baseline, sample by sample.

Only what was decoded on the same items is compared, and for speed only what was timed in
the same process. It does not know where the baseline comes from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from l2pd_bench import stats
from l2pd_bench.records import Run
from l2pd_bench.schema import Sample
from l2pd_bench.verdict import Compared

FEWEST_BATCHES = 10  # a bootstrap of fewer claims too much


class Speedup(NamedTuple):
    """The baseline's decode seconds over this run's, and over how many samples, decoded in how many batches."""

    value: float
    interval: stats.Interval | None
    pairs: int
    batches: int

    @property
    def shown(self) -> stats.Interval:
        """The interval, if there are batches enough for it to be believed; else one that says nothing."""
        if self.interval is None or self.batches < FEWEST_BATCHES:
            return stats.Interval(0.0, math.inf)
        return self.interval


class Delta(NamedTuple):
    """Accuracy minus the baseline's in points, and McNemar's p.

    `interval` is Tango's, of the difference in right answers, in points; `p_holm` is p
    adjusted for the section's other rows. Both are None for the baseline itself.
    """

    points: float
    p: float | None
    compared: Compared
    interval: stats.Interval | None
    p_holm: float | None = None

    @property
    def pairs(self) -> int:
        """Over how many samples."""
        return self.compared.pairs


def score(sample: Sample) -> float:
    """What a sample counts for; an error is a wrong answer."""
    return sample.score if sample.status == "ok" else 0.0


def correct(sample: Sample) -> bool:
    """Whether a sample counts as right; an error does not."""
    return sample.correct and sample.status == "ok"


def timed_pairs(base: Run, run: Run) -> list[tuple[Sample, Sample]]:
    """Samples (baseline's, this run's) timed in the same process, in the order of their ids."""
    theirs = base.timed
    return [(theirs[key], ours) for key, ours in run.timed.items() if key in theirs]


def common(base: Run, run: Run) -> list[tuple[Sample, Sample]]:
    """Samples (baseline's, this run's) of the same item, in the order of their ids."""
    theirs = base.by_id
    return [(theirs[key], ours) for key, ours in run.by_id.items() if key in theirs]


def speedup(base: Run, run: Run) -> Speedup | None:
    """How many times faster than the baseline; None without a pair."""
    pairs = timed_pairs(base, run)
    value = stats.ratio([(theirs.seconds.decode, ours.seconds.decode) for theirs, ours in pairs])
    if value is None:
        return None
    batches = _by_batch(pairs, run.manifest.protocol["batch_size"] == 1)
    return Speedup(value, None if base is run else stats.bootstrap_ratio(batches), len(pairs), len(batches))


def batch_count(run: Run) -> int:
    """How many turns the timed samples were decoded in; samples of one ended it together."""
    return len({(s.segment, s.elapsed_s) for s in run.samples})


def rate_interval(run: Run, samples: Sequence[Sample]) -> stats.Interval | None:
    """The interval of net tokens per decode second, by bootstrap of turns: samples of one share its seconds."""
    if run.manifest.protocol["batch_size"] == 1:
        return stats.bootstrap_ratio([(s.tokens.net, s.seconds.decode) for s in samples])
    batches: defaultdict[object, list[Sample]] = defaultdict(list)
    for s in samples:
        batches[s.segment, s.elapsed_s].append(s)
    sums = [(float(sum(s.tokens.net for s in b)), sum(s.seconds.decode for s in b)) for b in batches.values()]
    return stats.bootstrap_ratio(sums)


def delta(base: Run, run: Run) -> Delta | None:
    """The difference in accuracy over the common items; None without one."""
    pairs = common(base, run)
    points = stats.mean([100 * (score(ours) - score(theirs)) for theirs, ours in pairs])
    if points is None:
        return None
    verdicts = [(correct(ours), correct(theirs)) for theirs, ours in pairs]
    compared = Compared(len(pairs), verdicts.count((True, False)), verdicts.count((False, True)))
    if base is run:
        return Delta(points, None, compared, None)
    interval = stats.paired_difference(compared.only_ours, compared.only_base, compared.pairs)
    p = stats.mcnemar(compared.only_ours, compared.only_base)
    return Delta(points, p, compared, interval and interval.scaled(100))


def agreement(base: Run, run: Run) -> float | None:
    """Share of the common items, decoded by both without an error, that have the same answer text."""
    pairs = [(t, o) for t, o in common(base, run) if t.status == o.status == "ok"]
    return stats.mean([theirs.text == ours.text for theirs, ours in pairs])


def gap_closed(base: Run, oracle: Run, run: Run) -> float | None:
    """(NFE of the baseline - NFE) / (NFE of the baseline - NFE of the oracle), over the items all three have."""
    runs = [{s.doc_id: s.nfe.total for s in r.samples if s.status == "ok"} for r in (base, oracle, run)]
    shared = runs[0].keys() & runs[1].keys() & runs[2].keys()
    return stats.ratio([(runs[0][i] - runs[2][i], runs[0][i] - runs[1][i]) for i in shared])


def _by_batch(pairs: list[tuple[Sample, Sample]], single: bool) -> list[tuple[float, float]]:
    """Decode seconds, added up over what was decoded together.

    Samples of a turn share its seconds, so it is turns that are drawn independently. They
    are known by when they were over.
    """
    if single:
        return [(theirs.seconds.decode, ours.seconds.decode) for theirs, ours in pairs]
    batches: defaultdict[object, list[tuple[Sample, Sample]]] = defaultdict(list)
    for theirs, ours in pairs:
        batches[ours.segment, theirs.elapsed_s, ours.elapsed_s].append((theirs, ours))
    return [(sum(t.seconds.decode for t, _ in b), sum(o.seconds.decode for _, o in b)) for b in batches.values()]
