"""A board as csv or JSON: one flat row per row, numbers as computed, settings included."""

from __future__ import annotations

import csv
import io
import json

from l2pd_bench.report.board import Board, Row, Section
from l2pd_bench.report.columns import COLUMNS, NOT_DEPLOYABLE, NOT_DEPLOYABLE_LEGEND, STRATEGY, STRATEGY_LEGEND
from l2pd_bench.report.pairing import Speedup
from l2pd_bench.schema import PROTOCOL
from l2pd_bench.specs import Scalar


def to_json(board: Board) -> str:
    """Notes, sections with their settings and remarks, flat rows, legend."""
    sections = [
        {"title": s.title, "protocol_hash": s.protocol_hash, "protocol": s.protocol, "remarks": s.remarks}
        for s in board.sections
    ]
    legend = {
        STRATEGY: STRATEGY_LEGEND,
        NOT_DEPLOYABLE: NOT_DEPLOYABLE_LEGEND,
        **{column.title: column.legend for column in COLUMNS},
    }
    document = {"notes": board.notes, "sections": sections, "rows": flat_rows(board), "legend": legend}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(board: Board) -> str:
    """The flat rows under a line of names; what is not known is empty."""
    rows = flat_rows(board)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat_rows(board: Board) -> list[dict[str, Scalar]]:
    """The rows of all sections, in the order of the board."""
    return [_flat(section, row) for section in board.sections for row in section.rows]


def _flat(section: Section, row: Row) -> dict[str, Scalar]:
    manifest = row.run.manifest
    interval = row.accuracy_interval
    return {
        **{key: section.protocol[key] for key in PROTOCOL},
        "protocol_hash": section.protocol_hash,
        "strategy": row.spec,
        "is_baseline": row.is_baseline,
        "deployable": row.deployable,
        "derived": row.derived,
        "run_id": None if row.derived else manifest.run_id,
        "folder": None if row.derived else str(row.run.folder),
        "status": manifest.status,
        "samples": len(row.run.samples),
        "planned": manifest.planned,
        "errors": row.errors,
        "untimed": row.untimed,
        "accuracy_percent": row.accuracy,
        "accuracy_low_percent": interval.low if interval else None,
        "accuracy_high_percent": interval.high if interval else None,
        "delta_points": row.delta.points if row.delta else None,
        "delta_p": row.delta.p if row.delta else None,
        "delta_pairs": row.delta.pairs if row.delta else 0,
        "tps": row.tps,
        "tps_answer": row.tps_answer,
        "tps_gross": row.tps_gross,
        **_speedup("speedup", row.speedup),
        **_speedup("reference_speedup", row.reference_speedup),
        "tpf": row.tpf,
        "nfe_full": row.nfe_full,
        "nfe_window": row.nfe_window,
        "nfe_auxiliary": row.nfe_auxiliary,
        "latency_p50_s": row.latency_p50_s,
        "latency_p90_s": row.latency_p90_s,
        "latency_p99_s": row.latency_p99_s,
        "positions": row.positions,
        "flops": row.flops,
        "overhead_share": row.overhead_share,
        "agreement_share": row.agreement_share,
        "gap_closed": row.gap_closed,
        "cut_tokens": row.cut_tokens,
        "decode_agreement": row.decode_agreement,
        "mean_answer_tokens": row.mean_answer_tokens,
        "forced_per_sample": row.forced_per_sample,
        "overrides_per_sample": row.overrides_per_sample,
    }


def _speedup(name: str, speedup: Speedup | None) -> dict[str, Scalar]:
    interval = speedup.interval if speedup else None
    return {
        name: speedup.value if speedup else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
        f"{name}_pairs": speedup.pairs if speedup else 0,
    }
