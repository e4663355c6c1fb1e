"""Two runs side by side: what differs in their settings, and if nothing does, what differs in their numbers.

The second is judged beside the first, sample by sample, as a row of a board is beside
fixed-step. Runs of unequal settings may be shown, but are never judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2pd_bench.records import Run
from l2pd_bench.report import pairing
from l2pd_bench.report.board import Row, machine
from l2pd_bench.report.model import make_board
from l2pd_bench.schema import PROTOCOL
from l2pd_bench.specs import Scalar
from l2pd_bench.verdict import MARGIN, Verdict, judge


@dataclass(frozen=True)
class Comparison:
    """Two rows, and the second beside the first; the last four are None for unequal settings."""

    rows: tuple[Row, Row]
    differing: dict[str, tuple[Scalar, Scalar]]  # settings, by name
    remarks: tuple[str, ...]
    speedup: pairing.Speedup | None  # the first's decode seconds over the second's
    delta: pairing.Delta | None  # accuracy of the second minus the first's
    agreement_share: float | None  # of the answer texts
    verdict: Verdict | None


def compare(first: Run, second: Run, margin: float = MARGIN) -> Comparison:
    """The second run beside the first; `margin` in points of accuracy."""
    ours, theirs = first.manifest.protocol, second.manifest.protocol
    keys = dict.fromkeys([*PROTOCOL, *ours, *theirs])
    differing = {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}
    shown = [row for section in make_board([first, second], margin).sections for row in section.rows if not row.derived]
    rows = (_of(first, shown), _of(second, shown))
    if differing:
        return Comparison(rows, differing, (), None, None, None, None)
    speedup = pairing.speedup(first, second)
    is_graded = first.manifest.graded and second.manifest.graded
    delta = pairing.delta(first, second) if is_graded else None
    verdict = judge(
        speedup.shown if speedup else None, delta.compared if delta else None, delta.p if delta else None, margin
    )
    agreement = pairing.agreement(first, second)
    return Comparison(rows, {}, tuple(_remarks(rows, speedup, delta)), speedup, delta, agreement, verdict)


def _of(run: Run, rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.run is run)


def _remarks(rows: tuple[Row, Row], speedup: pairing.Speedup | None, delta: pairing.Delta | None) -> list[str]:
    """What must be known to read the comparison."""
    first, second = rows
    told = [f"{row.spec} is INVALID: {'; '.join(row.invalid)}" for row in rows if row.invalid]
    told += [f"{row.spec} is {row.run.manifest.status}" for row in rows if not row.finished]
    counts = len(first.run.samples), len(second.run.samples)
    pairs = len(pairing.common(first.run, second.run))
    if not pairs:
        told.append("they have no item in common, so nothing can be compared; decode the same items")
    elif pairs < max(counts):
        told.append(f"compared over the {pairs} items they share, of {counts[0]} and {counts[1]}")
    if speedup is None and pairs:
        told.append("no speedup: nothing was timed in the same process; repeat both in one command with --restart")
    if machine(first.run) != machine(second.run):
        told.append("measured on different machines, threads or versions: seconds are not to be compared")
    if delta is None and not (first.run.manifest.graded and second.run.manifest.graded):
        told.append("not graded, so nothing is said of a loss")
    return told
