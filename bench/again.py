"""`run --from`: what is recorded, decoded once more under the very same settings, and compared.

A record says what was run, and its hashes whether this is the same again: another model,
data, device or strategy code is refused before anything is decoded. It does not say where
the task's data is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.attention import KERNELS, SDPA
from l2pd_bench.hosts.plain import NAME as PLAIN
from l2pd_bench.hosts.pretrained import RANDOM
from l2pd_bench.job import Job, prepare_job, wanted_of
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import facts_of, protocol_of
from l2pd_bench.records import Run, load_runs, read_run, run_folder
from l2pd_bench.registry import load_strategy
from l2pd_bench.runner import Outcome, run_job
from l2pd_bench.schema import Manifest
from l2pd_bench.specs import Scalar, show

ALLOWED = ("output", "restart", "data_dir", "timeout", "trace", "watch", "sandbox", "unsafe_code")  # in no record
BASELINE = "fixed-step"  # what an oracle goes by
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FEW = 5  # doc_ids to name


@dataclass(frozen=True)
class Comparison:
    """A repeated run beside the recorded one: doc_ids in the order of the record."""

    spec: str
    samples: int  # recorded
    missing: list[str]  # not decoded this time
    outputs: list[str]  # with other tokens
    scores: list[str]
    forwards: list[str]

    @property
    def is_same(self) -> bool:
        """Whether every sample has the tokens it had."""
        return not self.missing and not self.outputs

    @property
    def message(self) -> str:
        """How many are equal, in a line."""
        again = self.samples - len(self.missing)
        equal = ", ".join(f"{again - len(getattr(self, n))} {n}" for n in ("outputs", "scores", "forwards"))
        told = f"{self.spec}: of {self.samples} recorded samples, {again} decoded again; equal: {equal}"
        if self.outputs:
            told += f"; other tokens: {', '.join(self.outputs[:_FEW])}{', ...' if len(self.outputs) > _FEW else ''}"
        return told


@dataclass(frozen=True)
class Repeated:
    """What came of it. `exit_code` is 0 if every sample has the tokens that are recorded."""

    outcome: Outcome
    comparisons: list[Comparison]
    notes: list[str]

    @property
    def exit_code(self) -> int:
        """The run's own, or 1 for other tokens."""
        return self.outcome.exit_code or int(not all(c.is_same for c in self.comparisons))

    @property
    def message(self) -> str:
        """All there is to tell, in lines."""
        lines = [self.outcome.message, *self.notes, *(c.message for c in self.comparisons)]
        return "\n".join(line for line in lines if line)


def repeat(folder: Path, options: Mapping[str, Any], *, command: str, restart: bool = False) -> Repeated:
    """Decode again what the run in `folder` has recorded, or the runs below it if they share setting and items.

    `options`: fields of `Plan`, of which only those in `ALLOWED` are not told by the record.
    Raises UsageError for others, for records that cannot be repeated here, and where the
    output folder holds all of it already.
    """
    if others := [name for name in options if name not in ALLOWED]:
        raise UsageError(
            f"from: got {_written(others)} as well, expected nothing but {_written(ALLOWED)} with --from; all else is "
            "as recorded"
        )
    runs = recorded(folder)
    plan, notes = plan_of(runs, doc_ids(runs[0]), options)
    if not restart:
        _refuse_done(runs, plan.output)
    outcome = run_job(plan, prepare_same(plan, runs), command=command, restart=restart)
    comparisons = [compare(run, read_run(run_folder(plan.output, run.manifest))) for run in runs]
    return Repeated(outcome, comparisons, notes)


def recorded(folder: Path) -> list[Run]:
    """The runs at or under `folder`; UsageError unless they can be repeated by one plan."""
    runs = load_runs(folder)
    first = runs[0]
    for run in runs:
        if not doc_ids(run):
            raise UsageError(f"from: {run.folder} has no samples recorded, expected some to repeat")
        if faults := _differing(first.manifest.protocol, run.manifest.protocol):
            raise UsageError(
                f"from: got runs of different settings ({first.folder} and {run.folder}: {_joined(faults, ' and ')}), "
                "expected one run, or runs that share theirs; name one run's folder"
            )
        if set(doc_ids(run)) != set(doc_ids(first)):
            raise UsageError(
                f"from: got runs of different items ({first.folder}: {len(doc_ids(first))}, {run.folder}: "
                f"{len(doc_ids(run))}), expected the same in all of them; name one run's folder"
            )
    for run in runs:
        if twice := [r.folder for r in runs if r.manifest.strategy.spec == run.manifest.strategy.spec][1:]:
            raise UsageError(f"from: got '{run.manifest.strategy.spec}' twice, also in {twice[0]}; name one of them")
    return runs


def doc_ids(run: Run) -> list[str]:
    """The items that a run has recorded."""
    return [sample.doc_id for sample in run.samples if sample.status == "ok"]


def plan_of(runs: Sequence[Run], ids: Sequence[str], options: Mapping[str, Any]) -> tuple[Plan, list[str]]:
    """The plan that made these runs, for these items, with notes on what it has besides."""
    manifest, notes = runs[0].manifest, []
    setting: dict[str, Any] = manifest.protocol
    strategies = [run.manifest.strategy.spec for run in runs]
    if not all(r.manifest.strategy.deployable for r in runs) and not any(r.manifest.strategy.is_baseline for r in runs):
        strategies.insert(0, BASELINE)
        notes.append(f"note: decoded {BASELINE}, too, which the oracle goes by")
    chosen: dict[str, Any] = {
        "strategy": strategies,
        "task": [manifest.task_spec],
        "model": manifest.model_spec,
        **{name: [setting[name]] for name in ("cache", "eot", "gen_length", "batch_size")},
        **{name: setting[name] for name in ("block_length", "temperature", "seed")},
        "ids": [*ids],
        **_host_options(manifest),
        **options,
    }
    return Plan(**chosen), notes


def _host_options(manifest: Manifest) -> dict[str, str | bool | None]:
    """What to ask a host's loader for, as far as it was a choice; the hashes show whether it has become the same."""
    setting = {name: str(value) for name, value in manifest.protocol.items()}
    try:
        device = torch.device(setting["device"]).type
    except RuntimeError:  # the name of an accelerator
        device = "cuda"
    chosen = setting["attention"] in KERNELS and setting["attention"] != SDPA.name
    return {
        "device": device,
        "dtype": setting["dtype"],
        "revision": setting["revision"] if _COMMIT.fullmatch(setting["revision"]) else None,
        "attention": setting["attention"] if chosen else None,
        "fast": setting["attention"] != PLAIN,
        "weights": RANDOM if setting["weights_hash"].startswith(RANDOM) else None,
    }


def prepare_same(plan: Plan, runs: Sequence[Run]) -> Job:
    """Load what the plan of these runs names; UsageError, with both values, for what is not as recorded."""
    known = {run.manifest.strategy.spec: run for run in runs}
    faults: list[Fault] = []
    if plan.device == "cuda" and not torch.cuda.is_available():
        faults.append(("device", str(runs[0].manifest.protocol["device"]), "cpu"))
    for name in plan.strategy:
        _, spec = load_strategy(name)
        if name in known and spec.code_hash != (old := known[name].manifest.strategy.code_hash):
            faults.append((f"code of '{name}'", old[:12], spec.code_hash[:12]))
    if faults:  # known before the model is loaded
        raise _refusal(faults)
    job = prepare_job(plan)
    for strategy, spec, settings, size in wanted_of(plan, job.tasks[0], job.strategies):
        here = protocol_of(
            facts_of(job.host), job.tasks[0], settings, frontier=strategy.frontier(), seed=plan.seed, batch_size=size
        )
        if spec.spec in known:
            faults += _differing(known[spec.spec].manifest.protocol, asdict(here))
    if faults:
        raise _refusal(faults)
    return job


def compare(run: Run, again: Run | None) -> Comparison:
    """A run's samples beside those of the run that repeats it."""
    new = {sample.doc_id: sample for sample in again.samples if sample.status == "ok"} if again else {}
    old = [sample for sample in run.samples if sample.status == "ok"]
    both = [(sample, new[sample.doc_id]) for sample in old if sample.doc_id in new]
    return Comparison(
        spec=run.manifest.strategy.spec,
        samples=len(old),
        missing=[sample.doc_id for sample in old if sample.doc_id not in new],
        outputs=[a.doc_id for a, b in both if a.output_ids != b.output_ids],
        scores=[a.doc_id for a, b in both if a.score != b.score],
        forwards=[a.doc_id for a, b in both if a.nfe != b.nfe],
    )


def _refuse_done(runs: Sequence[Run], output: Path) -> None:
    """Raise UsageError if all that would be decoded is there: an old board would look like a new one."""
    targets = [run_folder(output, run.manifest) for run in runs]
    held = [read_run(target) for target in targets]
    if all(there and set(doc_ids(run)) <= set(doc_ids(there)) for run, there in zip(runs, held, strict=True)):
        raise UsageError(
            f"output: {targets[0]} holds this run already, so nothing would be decoded; record it elsewhere with "
            "--output, or begin anew with --restart (the old records are renamed aside)"
        )


Fault = tuple[str, str, str]  # what differs, as recorded, as it is here


def _differing(recorded: Mapping[str, Scalar], here: Mapping[str, Scalar]) -> list[Fault]:
    def told(setting: Mapping[str, Scalar], name: str) -> str:
        return show(setting[name]) if name in setting else "(nothing)"

    pairs = [(name, told(recorded, name), told(here, name)) for name in dict.fromkeys([*recorded, *here])]
    return [fault for fault in pairs if fault[1] != fault[2]]


def _joined(faults: Sequence[Fault], between: str) -> str:
    return "; ".join(f"{name}: {old}{between}{new}" for name, old, new in dict.fromkeys(faults))


def _refusal(faults: Sequence[Fault]) -> UsageError:
    return UsageError(
        f"from: here is not what was run: {_joined(faults, ' was recorded, here it is ')}; use the same model, data, "
        "device and code, or decode it as a run of its own, without --from"
    )


def _written(names: Sequence[str]) -> str:
    written = {"attention": "--attn", "suite": "a suite"}
    return ", ".join(written.get(name, "--" + name.replace("_", "-")) for name in names)
