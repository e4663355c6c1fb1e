"""Rows that no run has decoded: what could be had if one knew more than one does.

Only chooses among recorded samples; how good they are, `model.py` computes as for any row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from l2pd_bench.records import Run
from l2pd_bench.report import pairing

NAME = "oracle-threshold"


def oracle_threshold(group: Sequence[Run], baseline: Run) -> Run | None:
    """The best threshold of every sample: of the group's `threshold` runs the best score, then the fewest forwards.

    (ParallelBench, arXiv 2510.04767.) Of equals the highest tau counts. None for fewer than
    two finished runs over the baseline's items.
    """
    doc_ids = [s.doc_id for s in baseline.samples]
    tried = [
        run
        for run in group
        if run.manifest.strategy.name == "threshold"
        and run.manifest.status == "finished"
        and {s.doc_id for s in run.samples} == set(doc_ids)
    ]
    if len(tried) < 2:
        return None
    tried.sort(key=_tau, reverse=True)
    samples = [{s.doc_id: s for s in run.samples} for run in tried]
    chosen = []
    for doc_id in doc_ids:
        best = min((run[doc_id] for run in samples), key=lambda s: (-pairing.score(s), s.nfe.total))
        chosen.append(replace(best, timed=False, segment=0))
    first = tried[0]
    strategy = replace(
        first.manifest.strategy,
        name=NAME,
        params={"taus": ", ".join(f"{_tau(run):g}" for run in tried)},
        spec=NAME,
        slug=NAME,
        deployable=False,
    )
    folder = first.folder.parent / f"threshold*--{first.manifest.protocol_hash[:8]}"
    return Run(folder, replace(first.manifest, strategy=strategy), tuple(chosen), 0, 0)


def _tau(run: Run) -> float:
    return float(run.manifest.strategy.params["tau"] or 0.0)
