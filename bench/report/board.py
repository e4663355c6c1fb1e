"""What a board is: sections of rows, every number in its plainest unit.

Percentages are 0 to 100, shares 0 to 1, and what cannot be said is None. Knows nothing
of where the numbers come from (`model.py`) nor of how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from l2pd_bench import stats
from l2pd_bench.records import Run
from l2pd_bench.report.pairing import Delta, Speedup
from l2pd_bench.specs import Scalar
from l2pd_bench.verdict import Verdict

TOO_FEW = "too few samples for a claim"  # how that reason begins


@dataclass(frozen=True)
class Row:
    """One run on the board."""

    run: Run
    baseline: Run | None  # fixed-step, one token per step, in the same setting
    reference: Run | None  # the same without cache and with EoT policy `decode`
    derived: bool  # chosen from the samples of other rows, so that it has no seconds
    errors: int  # samples that ended in an error: wrong for accuracy, left out elsewhere
    untimed: int  # samples without valid times: left out of tps, latency, overhead and speedup
    invalid: tuple[str, ...]  # why it is not to be trusted; empty: VALID
    verdict: Verdict | None  # beside the baseline, in words
    accuracy: float | None
    accuracy_interval: stats.Interval | None
    delta: Delta | None
    tps: float | None
    tps_interval: stats.Interval | None
    speedup: Speedup | None
    reference_speedup: Speedup | None
    tps_answer: float | None  # the same with other counters, for parity with papers
    tps_gross: float | None
    tpf: float | None
    tpf_interval: stats.Interval | None
    nfe_full: float | None  # means per sample
    nfe_window: float | None
    nfe_auxiliary: float | None
    latency_p50_s: float | None
    latency_p90_s: float | None
    latency_p99_s: float | None
    positions: float | None  # means per sample: columns fed, and floating-point operations from them
    flops: float | None
    overhead_share: float | None
    agreement_share: float | None
    gap_closed: float | None  # share of the baseline's forwards above the oracle's that are saved
    cut_tokens: float | None  # mean per sample, under EoT policy `predict`
    decode_agreement: float | None  # share of answers that are as with EoT policy `decode`
    mean_answer_tokens: float | None
    forced_per_sample: float | None
    overrides_per_sample: float | None

    @property
    def spec(self) -> str:
        """The strategy, as it is written."""
        return self.run.manifest.strategy.spec

    @property
    def is_baseline(self) -> bool:
        """Whether the others are compared with this row."""
        return self.baseline is self.run

    @property
    def deployable(self) -> bool:
        """Whether one could decode so; an oracle is on no ranking."""
        return self.run.manifest.strategy.deployable

    @property
    def spoiled(self) -> bool:
        """Whether something went wrong, other than that few samples were asked for."""
        return any(not reason.startswith(TOO_FEW) for reason in self.invalid)

    @property
    def finished(self) -> bool:
        """Whether the run is complete; only such rows can be the best of a section."""
        return self.run.manifest.status == "finished"

    @property
    def ranked(self) -> bool:
        """Whether it competes: deployable, complete and VALID."""
        return self.deployable and self.finished and not self.invalid


@dataclass(frozen=True)
class Curve:
    """One strategy at several values of its speed knob, slowest first."""

    name: str  # its spec without the knob
    knob: str  # the parameter that differs
    rows: tuple[Row, ...]
    y_max: float  # percent: the baseline's accuracy, to which AUP is pinned
    aup_tpf: float | None
    aup_tps: float | None
    pbx: tuple[tuple[int, float | None], ...]  # (x, best TPF with at least x percent of the baseline's accuracy)
    iso_speedup: float | None  # speedup at the baseline's accuracy, between two values by straight line


@dataclass(frozen=True)
class Frontier:
    """The rows that no other one beats in both accuracy and speed, fastest first; and the curves behind them."""

    by_tps: tuple[Row, ...]
    by_tpf: tuple[Row, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Section:
    """The rows of one setting, fastest first, and what must be known to read them."""

    title: str
    protocol: dict[str, Scalar]
    protocol_hash: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    frontier: Frontier | None = None  # where there are at least two rows to choose from

    @cached_property
    def competing(self) -> dict[int, Row]:
        """The rows that can be the best, by index: the ranked ones over the most items; none if those differ."""
        most = max(len(row.run.samples) for row in self.rows)
        rows = {i: row for i, row in enumerate(self.rows) if row.ranked and len(row.run.samples) == most}
        return rows if len({row.run.doc_ids for row in rows.values()}) <= 1 else {}

    @cached_property
    def one_machine(self) -> bool:
        """Whether all rows were measured with the same machine, threads and versions."""
        return len({machine(row.run) for row in self.rows}) == 1

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.protocol["task"])


@dataclass(frozen=True)
class Board:
    """Everything a report shows; `notes` are what its first lines must say."""

    notes: tuple[str, ...]
    sections: tuple[Section, ...]


def machine(run: Run) -> str:
    """What decides a run's seconds besides the protocol, as one text."""
    told = run.manifest.environment
    keys = ("hostname", "cpu", "cores", "torch_threads", "gpus", "packages")
    return "; ".join(f"{key} {told[key]}" for key in keys if key in told)
