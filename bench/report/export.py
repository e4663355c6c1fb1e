"""A board as csv or JSON: one flat row per row, numbers as computed, settings included."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from l2pd_bench.report.board import Board, Frontier, Row, Section
from l2pd_bench.report.columns import COLUMNS, NOT_DEPLOYABLE, NOT_DEPLOYABLE_LEGEND, STRATEGY, STRATEGY_LEGEND
from l2pd_bench.report.frontier_table import CURVE_LEGEND
from l2pd_bench.report.pairing import Speedup
from l2pd_bench.schema import PROTOCOL
from l2pd_bench.specs import Scalar
from l2pd_bench.stats import Interval


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
        **dict(CURVE_LEGEND),
    }
    document = {
        "notes": board.notes,
        "sections": sections,
        "rows": flat_rows(board),
        "frontiers": [_frontier(s.protocol_hash, s.frontier) for s in board.sections if s.frontier is not None],
        "legend": legend,
    }
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


def _frontier(protocol_hash: str, frontier: Frontier) -> dict[str, Any]:
    """Rows by their spec."""
    return {
        "protocol_hash": protocol_hash,
        "by_tps": [row.spec for row in frontier.by_tps],
        "by_tpf": [row.spec for row in frontier.by_tpf],
        "curves": [
            {
                "strategy": curve.name,
                "knob": curve.knob,
                "rows": [row.spec for row in curve.rows],
                "y_max_percent": curve.y_max,
                "aup_tpf": curve.aup_tpf,
                "aup_tps": curve.aup_tps,
                **{f"pb{x}_tpf": speed for x, speed in curve.pbx},
                "iso_speedup": curve.iso_speedup,
            }
            for curve in frontier.curves
        ],
    }


def _flat(section: Section, row: Row) -> dict[str, Scalar]:
    manifest = row.run.manifest
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
        "valid": not row.invalid,
        "invalid_reasons": "; ".join(row.invalid),
        "verdict": row.verdict.text if row.verdict else None,
        "verdict_speed": row.verdict.speed if row.verdict else None,
        "verdict_loss": row.verdict.loss if row.verdict else None,
        "verdict_samples_needed": row.verdict.samples if row.verdict else None,
        "errors": row.errors,
        "untimed": row.untimed,
        "accuracy_percent": row.accuracy,
        **_interval("accuracy", row.accuracy_interval, "_percent"),
        "delta_points": row.delta.points if row.delta else None,
        "delta_p": row.delta.p if row.delta else None,
        "delta_p_holm": row.delta.p_holm if row.delta else None,
        **_interval("delta", row.delta.interval if row.delta else None, "_points"),
        "delta_pairs": row.delta.pairs if row.delta else 0,
        "tps": row.tps,
        **_interval("tps", row.tps_interval),
        "tps_answer": row.tps_answer,
        "tps_gross": row.tps_gross,
        **_speedup("speedup", row.speedup),
        **_speedup("reference_speedup", row.reference_speedup),
        "tpf": row.tpf,
        **_interval("tpf", row.tpf_interval),
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
    return {
        name: speedup.value if speedup else None,
        **_interval(name, speedup.interval if speedup else None),
        f"{name}_pairs": speedup.pairs if speedup else 0,
    }


def _interval(name: str, interval: Interval | None, unit: str = "") -> dict[str, Scalar]:
    return {
        f"{name}_low{unit}": interval.low if interval else None,
        f"{name}_high{unit}": interval.high if interval else None,
    }
