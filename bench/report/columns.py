"""The columns of a board: how a value is written, which one is best, and the line of the legend.

The one place where a column is described; renderers only lay the texts out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from l2pd_bench.report.board import Row, Section
from l2pd_bench.report.pairing import Speedup
from l2pd_bench.stats import Interval

MISSING, UNGRADED = "\N{EN DASH}", "n/a"
STRATEGY = "strategy"
SIDE_BY_SIDE = (  # columns of two runs that are compared with each other, not with fixed-step
    *("n", "valid", "acc. %", "TPS", "TPF", "NFE", "p50 s", "overhead", "length", "forced"),
)
NOT_DEPLOYABLE = "\N{DAGGER}"
NOT_DEPLOYABLE_LEGEND = "not deployable: it goes by what is not known when decoding, and is not ranked"
STRATEGY_LEGEND = "the rule that chooses which masks to fill at each step; everything else is equal within a section"
BEST_LEGEND = (
    "best of its column in the section, among VALID, finished, deployable runs over the most items, as printed; "
    "no mark where all are equal"
)

Text = Callable[[Row], str]


@dataclass(frozen=True)
class Column:
    """One column: `text` is the cell, `detail` its second line, `under` the title of that, `legend` what they mean."""

    title: str
    legend: str
    text: Text
    under: str = ""
    detail: Text = lambda row: ""
    group: Literal["result", "work"] = "result"
    value: Callable[[Row], float | None] | None = None  # what is compared, where one can be the best
    highest: bool = True  # whether the best is the highest
    in_seconds: bool = False  # whether it says something of this machine only
    is_words: bool = False  # whether it holds words, to be read from the left and folded
    optional: bool = False  # whether it is left out of a section in which no row has anything to say


def best(section: Section, column: Column) -> set[int]:
    """Indices of the best rows of a column; empty where there is nothing to choose between.

    Seconds are compared only if all rows were measured on one kind of machine.
    """
    if column.value is None or (column.in_seconds and not section.one_machine):
        return set()
    values = {i: v for i, row in section.competing.items() if (v := column.value(row)) is not None}
    texts = {i: column.text(section.rows[i]) for i in values}
    if len(set(texts.values())) < 2:
        return set()
    winner = (max if column.highest else min)(values, key=values.__getitem__)
    return {i for i, text in texts.items() if text == texts[winner]}


def shown(section: Section) -> list[Column]:
    """The columns of a section."""
    return [c for c in COLUMNS if not c.optional or any(c.text(row) != MISSING for row in section.rows)]


def name(row: Row) -> str:
    """A row's strategy as a board shows it."""
    return row.spec if row.deployable else f"{row.spec} {NOT_DEPLOYABLE}"


def _fixed(value: float | None, places: int, unit: str = "") -> str:
    return MISSING if value is None else f"{value:.{places}f}{unit}"


def _digits(value: float | None) -> str:
    """Three digits that count, of which at most three behind the point."""
    places = 2 - math.floor(math.log10(value)) if value else 0
    return _fixed(value, min(3, max(0, places)))


def _interval(interval: Interval | None, places: int) -> str:
    return f"{interval.low:.{places}f}\N{EN DASH}{interval.high:.{places}f}" if interval else ""


def _percent(share: float | None) -> str:
    return _fixed(None if share is None else 100 * share, 1)


def _factor(speedup: Speedup | None) -> float | None:
    return speedup.value if speedup else None


def _delta(row: Row) -> str:
    if not row.run.manifest.graded:
        return UNGRADED
    if row.is_baseline:
        return "base"
    return f"{row.delta.points:+.1f}" if row.delta else MISSING


def _p(row: Row) -> str:
    if row.delta is None or row.delta.p is None:
        return ""
    return "p <.001" if row.delta.p < 0.001 else f"p {row.delta.p:.3f}".replace("0.", ".", 1)


def _samples(row: Row) -> str:
    count, planned = len(row.run.samples), row.run.manifest.planned
    return str(count) if row.finished else f"{count}/{planned}"


def _nfe(row: Row) -> float | None:
    return None if row.nfe_full is None or row.nfe_window is None else row.nfe_full + row.nfe_window


def _nfe_parts(row: Row) -> str:
    if row.nfe_full is None:
        return ""
    return f"{row.nfe_full:.1f}/{row.nfe_window:.1f}" + (f"+{row.nfe_auxiliary:.1f}" if row.nfe_auxiliary else "")


COLUMNS = (
    Column("n", "samples recorded (/ planned, where the run is not finished)", _samples),
    Column(
        "valid",
        "VALID, or INVALID: not to be trusted, for the reasons told below the table, and not ranked",
        lambda row: MISSING if row.derived else "INVALID" if row.invalid else "VALID",
    ),
    Column(
        "acc. %",
        "mean score of the task, over the 95 % Wilson interval of the share of right answers",
        lambda row: _fixed(row.accuracy, 1) if row.run.manifest.graded else UNGRADED,
        "95 %",
        lambda row: _interval(row.accuracy_interval, 1),
        value=lambda row: row.accuracy,
    ),
    Column(
        "delta",
        "accuracy minus that of fixed-step with one token per step (base), in points, on the same samples; "
        "p by McNemar's exact test (the verdict goes by p adjusted for the rows of the section, Holm)",
        _delta,
        "p",
        _p,
    ),
    Column(
        "TPS",
        "net tokens (before the first EoT) per decode second; 95 % interval by bootstrap (of batches)",
        lambda row: _digits(row.tps),
        "95 %",
        lambda row: f"{_digits(i.low)}\N{EN DASH}{_digits(i.high)}" if (i := row.tps_interval) else "",
        value=lambda row: row.tps,
        in_seconds=True,
    ),
    Column(
        "speedup",
        "decode seconds of fixed-step / those of this row, same samples, setting and process; "
        "95 % interval by paired bootstrap (of batches)",
        lambda row: _fixed(_factor(row.speedup), 2, "x"),
        "95 %",
        lambda row: _interval(row.speedup.interval, 2) if row.speedup else "",
        value=lambda row: _factor(row.speedup),
    ),
    Column(
        "vs ref",
        "the same against fixed-step with cache none and EoT decode, the papers' headline number",
        lambda row: _fixed(_factor(row.reference_speedup), 2, "x"),
        "95 %",
        lambda row: _interval(row.reference_speedup.interval, 2) if row.reference_speedup else "",
        value=lambda row: _factor(row.reference_speedup),
    ),
    Column(
        "verdict",
        "beside fixed-step, at 95 % confidence: faster or not; and whether the loss of right answers is below the "
        "margin (Tango's interval), shown to be a loss, or undecided",
        lambda row: "base" if row.is_baseline else row.verdict.text if row.verdict else MISSING,
        is_words=True,
    ),
    Column("TPF", "net tokens per forward", lambda row: _fixed(row.tpf, 2), value=lambda row: row.tpf, group="work"),
    Column(
        "NFE",
        "forwards of the model per sample; of these over the whole canvas / over a cached window "
        "(+ forwards of the strategy's own models)",
        lambda row: _fixed(_nfe(row), 1),
        "full/win",
        _nfe_parts,
        value=_nfe,
        highest=False,
        group="work",
    ),
    Column(
        "p50 s",
        "median, and 90th percentile, of the seconds from when a sample was begun until it was done",
        lambda row: _digits(row.latency_p50_s),
        "p90 s",
        lambda row: _digits(row.latency_p90_s),
        value=lambda row: row.latency_p50_s,
        in_seconds=True,
        highest=False,
        group="work",
    ),
    Column(
        "overhead",
        "share of the decode seconds outside the model's forwards, in the strategy and the engine",
        lambda row: _percent(row.overhead_share),
        "%",
        value=lambda row: row.overhead_share,
        in_seconds=True,
        highest=False,
        group="work",
    ),
    Column(
        "agree",
        "samples whose answer text equals that of fixed-step (base)",
        lambda row: "base" if row.is_baseline else _percent(row.agreement_share),
        "%",
        value=lambda row: None if row.is_baseline else row.agreement_share,
        group="work",
    ),
    Column(
        "gap",
        "share of the forwards between fixed-step and the oracle that are saved, in percent",
        lambda row: _percent(row.gap_closed),
        "%",
        value=lambda row: row.gap_closed,
        group="work",
        optional=True,
    ),
    Column(
        "cut",
        "masks per sample that EoT prediction cut off; share of the answers that are those of EoT policy decode",
        lambda row: _fixed(row.cut_tokens, 1),
        "=decode",
        lambda row: "" if row.decode_agreement is None else _percent(row.decode_agreement),
        group="work",
        optional=True,
    ),
    Column(
        "length",
        "mean answer tokens (net, and before the task's stop strings)",
        lambda row: _fixed(row.mean_answer_tokens, 1),
        group="work",
    ),
    Column(
        "forced",
        "commits per sample that the engine made because the strategy chose nothing",
        lambda row: _fixed(row.forced_per_sample, 2),
        group="work",
    ),
)
