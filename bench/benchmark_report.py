"""`l2pd-bench bench report`: seconds and peak memory of a report on 200,000 samples.

The records are made up, with answers of realistic length, sealed as any others, and
deleted again. Every report is a process of its own, in which the whole command runs.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from l2pd_bench.errors import UsageError
from l2pd_bench.records import totals
from l2pd_bench.schema import Git, Manifest, Nfe, Sample, Seconds, Segment, StrategyRecord, Tokens, Warmup
from l2pd_bench.seal import hash_of, run_id
from l2pd_bench.specs import Scalar
from l2pd_bench.writer import write_run

SHAPES = ((200, 1_000), (2, 100_000))  # runs by samples
SECONDS, PEAK_BYTES = 10.0, 1e9  # targets

_CHILD = """
import contextlib, io, json, sys, time
began = time.perf_counter()
from l2pd_bench import cli
sys.argv = ["l2pd-bench", "report", sys.argv[1]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main()
seconds = time.perf_counter() - began
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"seconds": seconds, "peak_bytes": int(line.split()[1]) * 1024}))
"""
_SETTING: dict[str, Scalar] = {
    **{"model": "made-up", "revision": "1", "weights_hash": "0" * 64, "dtype": "float32", "attention": "sdpa"},
    **{"device": "cpu", "task": "made-up", "data_hash": "0" * 64, "few_shot": 0, "prompt_format": "chat"},
    **{"grading": "made up", "gen_length": 128, "block_length": 32, "schedule": "blocks", "cache": "none"},
    **{"eot": "decode", "temperature": 0.0, "seed": 0, "batch_size": 1},
}


def measure_report(rounds: int) -> dict[str, list[dict[str, float]]]:
    """By shape of the folder, for each round: `seconds` and `peak_bytes` of the whole command."""
    if not Path("/proc/self/status").exists():
        raise UsageError("bench: report is measured on Linux only, which tells a process's peak memory")
    found: dict[str, list[dict[str, float]]] = {}
    for runs, samples in SHAPES:
        with TemporaryDirectory() as folder:
            for number in range(runs):
                write_made_up(Path(folder), number, samples)
            command = [sys.executable, "-c", _CHILD, folder]
            shown = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(rounds)]
            found[f"{runs} runs of {samples} samples"] = [json.loads(done.stdout) for done in shown]
    return found


def write_made_up(root: Path, number: int, count: int) -> None:
    """Write run `number`, sealed and finished."""
    manifest, samples = made_up(number, count)
    write_run(root, manifest, samples)


def made_up(number: int, count: int) -> tuple[Manifest, list[Sample]]:
    """Run `number`: 0 is fixed-step, the others are faster and sometimes wrong."""
    spec = f"threshold:tau={number / 1000}" if number else "fixed-step"
    params: dict[str, Scalar] = {"tau": number / 1000} if number else {"k": 1, "order": "confidence"}
    name, protocol_hash, code_hash = spec.partition(":")[0], hash_of(_SETTING), "0" * 64
    samples = list(_samples(random.Random(number), count, speed=1 + number / 20))
    warmup = Warmup(samples=1, rounds=2, seconds=1.0, is_stable=True)
    segment = Segment(index=0, session="s", pid=1, hostname="made-up", started="", warmup=warmup, alone=None)
    manifest = Manifest(
        run_id=run_id(protocol_hash, spec, code_hash),
        status="finished",
        command="l2pd-bench bench report",
        protocol=_SETTING,
        protocol_hash=protocol_hash,
        task_spec="made-up",
        model_spec="made-up",
        strategy=StrategyRecord(
            name=name,
            params=params,
            spec=spec,
            slug=f"{name}-{number}",
            distribution=None,
            version=None,
            code_hash=code_hash,
            deployable=True,
        ),
        environment={},
        git=Git(commit=None, dirty=None),
        planned=count,
        segments=[segment],
        totals=totals(samples),
    )
    return manifest, samples


def _samples(rng: random.Random, count: int, speed: float) -> Iterator[Sample]:
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(500)]
    for i in range(count):
        text = " ".join(rng.choices(words, k=rng.randint(30, 90)))
        seconds, right = rng.lognormvariate(0, 0.2) / speed, rng.random() < 0.8
        steps = max(1, round(128 / speed))
        yield Sample(
            doc_id=f"made-up/{i}",
            status="ok",
            error=None,
            prompt_tokens=40,
            output_ids=rng.choices(range(300), k=128),
            full_text=text,
            text=text,
            answer=text[-20:],
            correct=right,
            score=float(right),
            tokens=Tokens(net=100, answer=100, gross=128),
            nfe=Nfe(full=steps, window=0, auxiliary=0),
            positions=168 * steps,
            flops=10**9 * steps,
            forced_commits=0,
            overrides=0,
            cut_tokens=0,
            seconds=Seconds(decode=seconds, model=0.9 * seconds, select=0.05 * seconds, latency=seconds),
            segment=0,
            elapsed_s=float(i),
            timed=True,
        )
