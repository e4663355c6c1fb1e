"""What must be known to read a section: why a number is missing, and what to do about it.

Sentences only; it computes no column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from l2pd_bench.report import pairing
from l2pd_bench.report.board import Row, machine

_AGAIN = "repeat both in one command with --restart, so that they are timed in the same process"


def remarks(rows: Sequence[Row]) -> list[str]:
    """The remarks on a section, on all of it first."""
    found = []
    if any(row.run.manifest.protocol["schedule"] != "blocks" for row in rows):
        found.append(
            "decoded without blocks, with what is recomputed and how far is looked ahead as the strategy's own "
            "parameters: a setting of its own, which nothing else shares; compare its speedup vs reference"
        )
    elif not any(row.baseline for row in rows):
        found.append(
            "no fixed-step run with one token per step in this section, hence no delta, speedup and agreement; "
            f"add it: {_command_with_baseline(rows)}"
        )
    if not any(row.reference for row in rows):
        found.append(
            "no fixed-step run of this setting with cache none and EoT decode, hence no speedup vs reference; "
            "add --strategy fixed-step --cache none --eot decode to the command, and --restart"
        )
    if sum(row.is_baseline for row in rows) > 1:
        found.append("several fixed-step runs: each row is compared with the one it shares most samples with")
    if len({machine(row.run) for row in rows}) > 1:
        found.append("measured on different machines, threads or versions: seconds and TPS are not to be compared")
    if len({len(row.run.samples) for row in rows}) > 1:
        found.append("rows are over different numbers of items; only those over the most can be the best")
    elif len({row.run.doc_ids for row in rows}) > 1:
        found.append("rows are over different items, so none can be the best")
    reasons = dict.fromkeys(reason for row in rows for reason in row.invalid)
    found += [f"INVALID: {reason}: {_names([r for r in rows if reason in r.invalid], rows)}" for reason in reasons]
    if unsettled := [row for row in rows if not _has_settled(row)]:
        found.append(f"the times of the warm-up had not settled: {_names(unsettled, rows)}")
    told: defaultdict[str, list[Row]] = defaultdict(list)  # what is said of several rows is said once
    for row in rows:
        for text in _of_row(row):
            told[text].append(row)
    return found + [f"{_names(some, rows)}: {text}" for text, some in told.items()]


def _of_row(row: Row) -> list[str]:
    """The remarks on one row."""
    manifest, samples = row.run.manifest, row.run.samples
    found = []
    if row.derived:
        return [
            "not decoded but chosen, sample by sample, from the threshold rows here: the best score, and of these the "
            "fewest forwards; not ranked, as one cannot know which"
        ]
    if not row.deployable:
        found.append(
            f"not ranked, as it is shown fixed-step's decode; what that costs stands in its row. Filled in tokens that "
            f"were not predicted in {row.overrides_per_sample or 0:.2f} steps per sample"
        )
    if not row.finished:
        reason = f" ({_plain(manifest.error)})" if manifest.error else ""
        state = "running, or killed" if manifest.status == "running" else manifest.status
        found.append(
            f"{state}{reason}: {len(samples)} of {manifest.planned} samples; continue with: {manifest.command}"
        )
    if row.run.torn_bytes:
        found.append("the last line of its samples is torn and was left out; continuing the run repairs it")
    if row.errors:
        first = next(s for s in samples if s.status != "ok")
        found.append(
            f"{row.errors} of {len(samples)} samples ended in an error and count as wrong "
            f"(first: {first.doc_id}: {_plain(first.error)}); repeat the command to try them again"
        )
    if row.untimed:
        found.append(
            f"{row.untimed} of {len(samples)} samples have no valid times: left out of what is measured in seconds"
        )
    hosts = {segment.hostname for segment in manifest.segments}
    if len(hosts) > 1:
        found.append(f"its samples were decoded on {len(hosts)} machines ({', '.join(sorted(hosts))})")
    if row.baseline and not row.is_baseline:
        pairs = len(pairing.common(row.baseline, row.run))
        if pairs < max(len(samples), len(row.baseline.samples)):
            found.append(
                f"compared with fixed-step over the {pairs} samples they share, "
                f"of {len(samples)} here and {len(row.baseline.samples)} there"
            )
        found += _unpaired(row, row.speedup, "fixed-step", "speedup")
    if row.reference and row.reference is not row.run and row.reference is not row.baseline:
        found += _unpaired(row, row.reference_speedup, "the reference", "speedup vs reference")
    return found


def _has_settled(row: Row) -> bool:
    return row.derived or all(s.warmup.is_stable for s in row.run.manifest.segments if s.warmup.rounds)


def _names(some: Sequence[Row], rows: Sequence[Row]) -> str:
    return "all rows" if len(some) == sum(not row.derived for row in rows) > 1 else ", ".join(r.spec for r in some)


def _unpaired(row: Row, speedup: pairing.Speedup | None, whom: str, what: str) -> list[str]:
    """Why a speedup is missing, or is over a part of the samples."""
    total = len(row.run.timed)
    if total and speedup is None:
        return [f"no {what}: no sample was timed in the same process as {whom}; {_AGAIN}"]
    if speedup is not None and speedup.pairs < total:
        return [f"{what} over {speedup.pairs} of {total} samples, those timed in the same process as {whom}; {_AGAIN}"]
    return []


def _command_with_baseline(rows: Sequence[Row]) -> str:
    command = rows[0].run.manifest.command
    if "--from" in command:
        return "repeat a folder that holds fixed-step, too"
    if "--strategy" not in command:  # a suite's own strategies give way to those that are named
        command += "".join(f" --strategy {row.spec}" for row in rows)
    restart = "" if "--restart" in command else " --restart"
    return f"{command} --strategy fixed-step{restart}"


def _plain(text: str | None) -> str:
    """The first line of a message, in short."""
    return ((text or "").strip().splitlines() or ["no message"])[0][:120]
