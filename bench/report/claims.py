"""Published numbers beside measured ones: what `report --claims` adds to a board.

Which claim belongs to which run is `l2pd_bench.claims`'s affair; here the two are set side
by side, with their ratio and with what differs. A board knows nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from l2pd_bench.claims import Claim, Difference, comparable, differences, load_claims
from l2pd_bench.report.board import Board, Row
from l2pd_bench.report.columns import MISSING
from l2pd_bench.report.markdown import escaped, table_line
from l2pd_bench.specs import Scalar, show

TITLE = "Published and measured"
WITH_CLAIMS = ("markdown", "json")  # the written formats that have a place for them
LEGEND = (
    "ratio: measured over published. Measured TPS counts answer tokens where the source cuts at the task's stop "
    "strings, else net tokens; measured speedup is that against the reference (fixed-step, cache none, EoT decode), "
    "a ratio of decode seconds where the sources have one of TPS. Of the claims on a row's task and strategy, those "
    "with the fewest other settings that differ are shown, hardware and the number of items aside; json has all."
)
NAMES = {"accuracy": "acc. %", "tps": "TPS", "speedup": "speedup"}


class Figures(NamedTuple):
    """What can be compared."""

    accuracy: float | None
    tps: float | None
    speedup: float | None


@dataclass(frozen=True)
class Comparison:
    """A measured row beside a claim."""

    row: Row
    claim: Claim
    differences: tuple[Difference, ...]

    @property
    def measured(self) -> Figures:
        """The row's, counted as the claim's."""
        tps = self.row.tps_answer if self.claim.tokens == "answer" else self.row.tps
        speedup = self.row.reference_speedup
        return Figures(self.row.accuracy, tps, speedup.value if speedup else None)

    @property
    def published(self) -> Figures:
        """The claim's."""
        return Figures(self.claim.accuracy, self.claim.tps, self.claim.speedup)

    @property
    def ratio(self) -> Figures:
        """Measured over published, where there are both."""
        pairs = zip(self.measured, self.published, strict=True)
        return Figures(*(None if here is None or not there else here / there for here, there in pairs))

    @property
    def different(self) -> list[Difference]:
        """The settings that the source tells, and that are others."""
        return [each for each in self.differences if each.there is not None]

    @property
    def not_told(self) -> list[str]:
        """The settings that the source does not tell."""
        return [each.name for each in self.differences if each.there is None]


@dataclass(frozen=True)
class Claims:
    """Every row of a board that has claims, with all of them; the rows that have none, and why."""

    compared: tuple[tuple[Row, tuple[Comparison, ...]], ...]
    unclaimed: tuple[Row, ...]
    known_tasks: tuple[str, ...]

    @property
    def without(self) -> str | None:
        """One line on the rows without a claim."""
        if not self.unclaimed:
            return None
        tasks = dict.fromkeys(_task(row) for row in self.unclaimed)
        nobody = [task for task in tasks if task not in self.known_tasks]
        others = dict.fromkeys(f"{row.spec} on {_task(row)}" for row in self.unclaimed if _task(row) not in nobody)
        told = []
        if nobody:
            told.append(
                f"no published numbers for {', '.join(nobody)}: the papers measured {', '.join(self.known_tasks)}"
            )
        if others:
            told.append(f"no claim on {', '.join(others)}: no source tells a strategy with these parameters")
        return "; ".join(told)


def make_claims(board: Board, claims: Sequence[Claim]) -> Claims:
    """The claims on the rows of a board; rows that no run has decoded are left out."""
    rows = [row for section in board.sections for row in section.rows if not row.derived]
    found = [(row, _comparisons(row, claims)) for row in rows]
    return Claims(
        tuple((row, those) for row, those in found if those),
        tuple(row for row, those in found if not those),
        tuple(sorted({claim.task for claim in claims if claim.strategy is not None})),
    )


def nearest(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those with the fewest settings that differ, hardware and the number of items aside."""
    counts = [sum(each.name not in ("hardware", "items") for each in c.different) for c in comparisons]
    return [c for c, count in zip(comparisons, counts, strict=True) if count == min(counts)]


def claims_text(board: Board) -> str:
    """For a terminal: per row a few aligned lines; what comes from records is plain text."""
    claims = make_claims(board, load_claims())
    lines = [TITLE, ""]
    for row, every in claims.compared:
        shown = nearest(every)
        lines.append(f"{_task(row)} {row.spec} ({_setting(row)}; {len(row.run.samples)} items)")
        lines.append(_aligned("", list(NAMES.values())))
        for each in shown:
            lines.append(each.claim.place)
            lines.append(_aligned("  measured", _measured(each.measured)))
            lines.append(_aligned("  published", _published(each.published)))
            lines.append(_aligned("  ratio", [_ratio(value) for value in each.ratio]))
            lines += [f"  {line}" for line in _told(each)]
        if further := len(every) - len(shown):
            lines.append(f"  {further} further claims differ in more")
        lines.append("")
    lines += [claims.without] if claims.without else []
    lines += [LEGEND] if claims.compared else []
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines) + "\n"


def add_claims(text: str, format: str, board: Board) -> str:
    """A rendered board with its claims, in one of the formats `WITH_CLAIMS`."""
    claims = make_claims(board, load_claims())
    if format == "markdown":
        return f"{text}\n{claims_markdown(claims)}"
    told = json.loads(text) | {"claims": claims_document(claims)}
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def claims_markdown(claims: Claims) -> str:
    """For a page: one table, a line per claim."""
    heads = [head for name in NAMES.values() for head in (name, "published", "ratio")]
    lines = [f"## {TITLE}", ""]
    if claims.compared:
        lines.append(table_line(["row", *heads, "source", "what differs"]))
        lines.append(table_line(["---", *("---:" for _ in heads), "---", "---"]))
    for row, every in claims.compared:
        for each in nearest(every):
            triples = zip(_measured(each.measured), _published(each.published), map(_ratio, each.ratio), strict=True)
            name = f"{_task(row)} `{row.spec}` ({_setting(row)}; {len(row.run.samples)} items)"
            told = " ".join(f"{escaped(line)}." for line in _told(each))
            lines.append(table_line([name, *(text for triple in triples for text in triple), each.claim.place, told]))
    lines += [""] if claims.compared else []
    lines += [escaped(claims.without), ""] if claims.without else []
    lines += [LEGEND, ""] if claims.compared else []
    return "\n".join(lines)


def claims_document(claims: Claims) -> dict[str, Any]:
    """For a program: every claim on every row."""
    return {
        "compared": [_as_dict(each, each in nearest(every)) for _, every in claims.compared for each in every],
        "unclaimed": [
            {"task": _task(row), "strategy": row.spec, "protocol_hash": row.run.manifest.protocol_hash}
            for row in claims.unclaimed
        ],
        "note": claims.without,
        "legend": LEGEND,
    }


def _comparisons(row: Row, claims: Sequence[Claim]) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(row, claim, tuple(differences(claim, row.run))) for claim in claims if comparable(claim, row.run)
    )


def _as_dict(each: Comparison, is_nearest: bool) -> dict[str, Any]:
    return {
        "task": _task(each.row),
        "strategy": each.row.spec,
        "protocol_hash": each.row.run.manifest.protocol_hash,
        "run_id": each.row.run.manifest.run_id,
        "claim": asdict(each.claim),
        "nearest": is_nearest,
        "measured": each.measured._asdict(),
        "published": each.published._asdict(),
        "ratio": each.ratio._asdict(),
        "differences": {name: {"here": here, "there": there} for name, here, there in each.different},
        "not_told": each.not_told,
    }


def _told(each: Comparison) -> Iterator[str]:
    if each.different:
        told = (f"{name} {_show(here)} (there {_show(there)})" for name, here, there in each.different)
        yield f"differs: {', '.join(told)}"
    if each.not_told:
        yield f"not told there: {', '.join(each.not_told)}"
    yield f"remark: {each.claim.remark}"


def _setting(row: Row) -> str:
    get = row.run.manifest.protocol.__getitem__
    return f"cache {get('cache')}, EoT {get('eot')}, gen {get('gen_length')} / block {get('block_length')}"


def _task(row: Row) -> str:
    return str(row.run.manifest.protocol["task"])


def _measured(figures: Figures) -> list[str]:
    forms = zip(figures, ("{:.1f}", "{:.3g}", "{:.2f}x"), strict=True)
    return [MISSING if value is None else form.format(value) for value, form in forms]


def _published(figures: Figures) -> list[str]:
    """With the digits of the source, none added."""
    forms = zip(figures, ("{:g}", "{:g}", "{:g}x"), strict=True)
    return [MISSING if value is None else form.format(value) for value, form in forms]


def _ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _aligned(label: str, texts: Sequence[str]) -> str:
    return f"{label:<30}" + "".join(f"{text:>10}" for text in texts)


def _show(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else show(value)
