"""Records to a board: a pure function, the one result that all renderers show.

A section holds the runs of one protocol hash, the only ones that are compared with each
other; sections of a task stand together. Percentages are 0 to 100, shares 0 to 1, and
what cannot be said is None. Knows nothing of tables, colours and files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from l2pd_bench import stats
from l2pd_bench.records import Run
from l2pd_bench.report import pairing
from l2pd_bench.report.advice import advice
from l2pd_bench.report.board import Board, Row, Section
from l2pd_bench.report.derived import oracle_threshold
from l2pd_bench.report.frontier import make_frontier
from l2pd_bench.report.remarks import remarks
from l2pd_bench.report.validity import Drifts, drifts, invalid
from l2pd_bench.schema import PROTOCOL
from l2pd_bench.specs import Scalar
from l2pd_bench.verdict import MARGIN, judge

REFERENCE = {"cache": "none", "eot": "decode", "schedule": "blocks"}  # the setting the papers compare with


def make_board(runs: Sequence[Run], margin: float = MARGIN) -> Board:
    """The board of these runs; `margin`: points of accuracy that count as no loss."""
    groups: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: str(r.folder)):
        groups[run.manifest.protocol_hash].append(run)
    baselines = [run for run in runs if run.manifest.strategy.is_baseline]
    known = drifts(runs)
    sections = [_section(group, baselines, runs, known, margin) for group in groups.values()]
    notes = dict.fromkeys(note for group in groups.values() for run in group for note in run.manifest.notes)
    return Board(tuple(notes), tuple(sorted(sections, key=_order)))


def _section(
    group: Sequence[Run], baselines: Sequence[Run], runs: Sequence[Run], known: Drifts, margin: float
) -> Section:
    protocol = group[0].manifest.protocol
    protocol_hash = group[0].manifest.protocol_hash
    wanted = {**protocol, **REFERENCE}
    same = [run for run in baselines if run.manifest.protocol_hash == protocol_hash]
    plain = [run for run in baselines if run.manifest.protocol == wanted]
    oracles = [run for run in group if run.manifest.strategy.is_oracle]
    decoded = [run for run in runs if run.manifest.protocol == {**protocol, "eot": "decode"}]
    best_tau = oracle_threshold(group, same[0]) if len(same) == 1 else None
    every = [*group, best_tau] if best_tau else group
    rows = [
        _row(run, _nearest(run, same), _nearest(run, plain), _nearest(run, oracles), decoded, run is best_tau, known)
        for run in every
    ]
    rows = _judged(rows, margin)
    rows.sort(key=lambda row: (not row.deployable, not row.finished, bool(row.invalid), -(row.tps or 0.0), row.spec))
    told = filter(None, [advice(rows, margin), *remarks(rows)])
    title = _title(protocol, protocol_hash, runs)
    return Section(title, protocol, protocol_hash, tuple(rows), tuple(told), make_frontier(rows))


def _judged(rows: Sequence[Row], margin: float) -> list[Row]:
    """The rows with their verdicts, whose p are adjusted for each other (Holm)."""
    tested = [i for i, row in enumerate(rows) if row.deployable and row.delta and row.delta.p is not None]
    ps = [delta.p for i in tested if (delta := rows[i].delta) and delta.p is not None]
    adjusted = dict(zip(tested, stats.holm(ps), strict=True))
    judged = []
    for i, row in enumerate(rows):
        delta = row.delta and row.delta._replace(p_holm=adjusted.get(i))
        has_verdict = row.baseline is not None and not row.is_baseline and row.deployable
        verdict = None
        if has_verdict:
            shown = row.speedup.shown if row.speedup else None
            verdict = judge(shown, delta.compared if delta else None, delta.p_holm if delta else None, margin)
        judged.append(replace(row, delta=delta, verdict=verdict))
    return judged


def _nearest(run: Run, baselines: Sequence[Run]) -> Run | None:
    """Of several such runs of a setting (from several results folders), the one that says most about a run."""

    def kinship(base: Run) -> tuple[bool, int, int]:
        return base is run, len(pairing.timed_pairs(base, run)), len(pairing.common(base, run))

    return max(baselines, key=kinship) if len(baselines) > 1 else next(iter(baselines), None)


def _row(
    run: Run,
    baseline: Run | None,
    reference: Run | None,
    oracle: Run | None,
    decoded: Sequence[Run],
    derived: bool,
    known: Drifts,
) -> Row:
    done = [s for s in run.by_id.values() if s.status == "ok"]
    timed = list(run.timed.values())
    graded = run.samples if run.manifest.graded else ()
    accuracy = stats.mean([100 * pairing.score(s) for s in graded])
    interval = stats.wilson(sum(map(pairing.correct, graded)), len(graded))
    strategy = run.manifest.strategy
    same = [other for other in decoded if other.manifest.strategy.spec == strategy.spec and other is not run]
    nearest = _nearest(run, same)
    is_decode = run.manifest.protocol["eot"] == "decode"
    speedup = pairing.speedup(baseline, run) if baseline else None
    latencies = [s.seconds.latency for s in timed]
    return Row(
        run=run,
        baseline=baseline,
        reference=reference,
        derived=derived,
        errors=len(run.samples) - len(done),
        untimed=0 if derived else len(done) - len(timed),
        invalid=() if derived else invalid(run, known),
        verdict=None,
        accuracy=accuracy,
        accuracy_interval=interval and interval.scaled(100),
        delta=pairing.delta(baseline, run) if baseline and graded else None,
        tps=stats.ratio([(s.tokens.net, s.seconds.decode) for s in timed]),
        tps_interval=pairing.rate_interval(run, timed),
        speedup=speedup,
        reference_speedup=speedup if reference is baseline else pairing.speedup(reference, run) if reference else None,
        tps_answer=stats.ratio([(s.tokens.answer, s.seconds.decode) for s in timed]),
        tps_gross=stats.ratio([(s.tokens.gross, s.seconds.decode) for s in timed]),
        tpf=stats.ratio([(s.tokens.net, s.nfe.total) for s in done]),
        tpf_interval=stats.bootstrap_ratio([(s.tokens.net, s.nfe.total) for s in done]),
        nfe_full=stats.mean([s.nfe.full for s in done]),
        nfe_window=stats.mean([s.nfe.window for s in done]),
        nfe_auxiliary=stats.mean([s.nfe.auxiliary for s in done]),
        latency_p50_s=stats.percentile(latencies, 0.5),
        latency_p90_s=stats.percentile(latencies, 0.9),
        latency_p99_s=stats.percentile(latencies, 0.99),
        positions=stats.mean([s.positions for s in done]),
        flops=stats.mean([s.flops for s in done]),
        overhead_share=stats.ratio([(s.seconds.decode - s.seconds.model, s.seconds.decode) for s in timed]),
        agreement_share=pairing.agreement(baseline, run) if baseline else None,
        gap_closed=pairing.gap_closed(baseline, oracle, run) if baseline and oracle else None,
        cut_tokens=stats.mean([s.cut_tokens for s in done]) if run.manifest.protocol["eot"] == "predict" else None,
        decode_agreement=pairing.agreement(nearest, run) if nearest and not is_decode else None,
        mean_answer_tokens=stats.mean([s.tokens.answer for s in done]),
        forced_per_sample=stats.mean([s.forced_commits for s in done]),
        overrides_per_sample=stats.mean([s.overrides for s in done]),
    )


def _title(protocol: dict[str, Scalar], protocol_hash: str, runs: Sequence[Run]) -> str:
    """The setting in words: what is always told, and whatever else tells it from the task's other sections."""
    get = protocol.__getitem__
    told = {"task", "model", "cache", "eot", "gen_length", "block_length", "schedule", "batch_size"}
    told |= {"temperature", "device"}
    others = [r.manifest.protocol for r in runs if r.manifest.protocol["task"] == protocol["task"]]
    differing = [k for k in PROTOCOL if k not in told and any(o[k] != protocol[k] for o in others)]
    return ", ".join(
        [
            f"{get('task')}: model {get('model')}, cache {get('cache')}, EoT {get('eot')}",
            f"gen {get('gen_length')} / block {get('block_length')}, {batch_of(get('batch_size'))}",
            f"temperature {get('temperature'):g}, {get('device')}",
            *([] if get("schedule") == "blocks" else [f"without blocks ({get('schedule')})"]),
            *(f"{key.replace('_', ' ')} {get(key)!s:.12}" for key in differing),
            f"protocol {protocol_hash[:8]}",
        ]
    )


def batch_of(size: Scalar) -> str:
    """A batch size with what its seconds mean: of one sample after the other, or of several that share forwards."""
    return f"batch {size} ({'latency' if size == 1 else 'throughput'} mode)"


def _order(section: Section) -> tuple[object, ...]:
    """By task, the plainest setting of it first."""
    setting = section.protocol
    numbers = [float(setting[key] or 0) for key in ("gen_length", "block_length", "batch_size", "temperature")]
    plain = [setting[key] != value for key, value in REFERENCE.items()]
    return (section.task, str(setting["model"]), *numbers, *plain, str(setting["cache"]), section.protocol_hash)
