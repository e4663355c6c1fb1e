"""How well a filter, or a plain confidence threshold, tells final predictions from others.

Pure functions of records, and the table made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from l2pd_bench.filter_records import Records
from l2pd_bench.strategies.filter_file import Filter

CONTROLS = (0.8, 0.85, 0.9)  # confidence thresholds that a filter has to beat
AS_MANY = " (as many)"
CANDIDATES, ALL = "candidates", "all positions"
_GRID = 101  # confidences at which a filter's own threshold is looked for
_PROBED = 256  # records in which it is, evenly spread


@dataclass(frozen=True)
class Row:
    """One rule on one choice of positions. What is a share of nothing is None."""

    rule: str
    scope: str  # CANDIDATES, the only ones that matter in decoding, or ALL, which the authors' loss counts
    positions: int
    accepted: float  # share of the positions
    precision: float | None  # share of the accepted whose prediction is final
    recall: float | None  # share of the final that are accepted
    false_positive_rate: float | None  # share of the not final that are accepted
    auc: float | None  # chance that a final one is scored above one that is not, ties as halves


@dataclass(frozen=True)
class OwnThreshold:
    """Which confidence of its own a candidate needs, all others left as they are, for the filter to accept it."""

    candidates: int  # that were probed
    never: float  # share not accepted even at confidence 1
    p10: float | None  # quantiles over the others
    median: float | None
    p90: float | None


@dataclass(frozen=True)
class Evaluation:
    """A filter on records, beside plain thresholds on the same."""

    tau: float
    prompts: int
    records: int
    rows: tuple[Row, ...]
    own_threshold: OwnThreshold

    def as_json(self) -> dict[str, object]:
        """JSON-able, numbers rounded to six places."""
        return _rounded(asdict(self))  # type: ignore[return-value]


def evaluate_filter(net: Filter, records: Records, tau: float) -> Evaluation:
    """The filter at `tau`, and the controls, on candidates and on all positions.

    The last control is the threshold that accepts as many: what is left between the two
    is what the filter knows beyond a position's own confidence.
    """
    every = torch.ones_like(records.candidates)
    rows = []
    with torch.inference_mode():
        scores = net(records.confidence, records.candidates, records.step).sigmoid()
        for scope, among in ((CANDIDATES, records.candidates), (ALL, every)):
            score, confidence, label = scores[among], records.confidence[among], records.label[among]
            taken = int((score > tau).sum())
            rows.append(judge(f"filter > {tau:g}", scope, score, score > tau, label))
            thresholds = [(c, "") for c in CONTROLS]
            if taken:
                thresholds.append((float(confidence.topk(taken).values[-1]), AS_MANY))
            rows += [
                judge(f"confidence >= {c:.6g}{said}", scope, confidence, confidence >= c, label)
                for c, said in thresholds
            ]
        own = own_threshold(net, records, tau)
    return Evaluation(tau, len(records.prompt.unique()), len(records.step), tuple(rows), own)


def judge(rule: str, scope: str, score: Tensor, accepted: Tensor, label: Tensor) -> Row:
    """One row, of P positions: `score` (P,) float, `accepted` and `label` (P,) bool."""
    hits, taken, final = (int(x.sum()) for x in (accepted & label, accepted, label))
    total = len(label)
    return Row(
        rule=rule,
        scope=scope,
        positions=total,
        accepted=taken / total if total else 0.0,
        precision=_share(hits, taken),
        recall=_share(hits, final),
        false_positive_rate=_share(taken - hits, total - final),
        auc=roc_auc(score, label),
    )


def roc_auc(score: Tensor, label: Tensor) -> float | None:
    """Area under the ROC curve of `score` (P,) for `label` (P,) bool, from ranks; None if one class is missing."""
    from scipy.stats import rankdata

    positives = int(label.sum())
    pairs = positives * (len(label) - positives)
    if not pairs:
        return None
    ranks = float(rankdata(score.double().numpy())[label.numpy()].sum())
    return (ranks - positives * (positives + 1) / 2) / pairs


def own_threshold(net: Filter, records: Records, tau: float) -> OwnThreshold:
    """Probe the candidates of some records: the least confidence from which on each is accepted."""
    part = records.at(torch.linspace(0, len(records.step) - 1, min(_PROBED, len(records.step))).long())
    record, position = part.candidates.nonzero(as_tuple=True)  # (C,) each
    grid = torch.linspace(0, 1, _GRID)
    inside = torch.zeros(len(record), _GRID, dtype=torch.bool)
    for i, value in enumerate(grid):
        confidence = part.confidence[record]
        confidence[torch.arange(len(record)), position] = value
        logits = net(confidence, part.candidates[record], part.step[record])
        inside[:, i] = logits[torch.arange(len(record)), position].sigmoid() > tau
    steady = inside.flip(1).long().cummin(1).values.sum(1)  # (C,): grid points accepted without a gap up to 1
    found = grid[(_GRID - steady[steady > 0])]
    quantiles = torch.quantile(found, torch.tensor([0.1, 0.5, 0.9])).tolist() if len(found) else [None] * 3
    return OwnThreshold(len(record), _share(int((steady == 0).sum()), len(record)) or 0.0, *quantiles)


def print_evaluation(evaluation: Evaluation, title: str, console: Console) -> None:
    """The table and its legend."""
    table = Table(
        title=f"{title}: {evaluation.records} records of {evaluation.prompts} prompts",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("rule", no_wrap=True)
    for name in ("accepted", "precision", "recall", "FPR", "AUC"):
        table.add_column(name, justify="right")
    for scope in (CANDIDATES, ALL):
        rows = [row for row in evaluation.rows if row.scope == scope]
        table.add_row(f"{scope} ({rows[0].positions})", style="dim")
        for row in rows:
            shares = (row.accepted, row.precision, row.recall, row.false_positive_rate)
            table.add_row(f"  {row.rule}", *map(_percent, shares), "-" if row.auc is None else f"{row.auc:.4f}")
    console.print(table)
    own = evaluation.own_threshold
    if own.median is not None:
        console.print(
            f"own threshold: a candidate is accepted from confidence {own.median:.2f} on (median; p10 {own.p10:.2f}, "
            f"p90 {own.p90:.2f}), all others as they are; {_percent(own.never)} of {own.candidates} never are",
            highlight=False,
        )
    console.print(
        "precision: accepted predictions that are the reference's; recall: the reference's that are accepted; "
        "FPR: the others that are accepted; AUC: right scored above wrong, whatever the threshold (ROC)",
        style="dim",
        highlight=False,
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}%"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(v) for v in value]
    return value
