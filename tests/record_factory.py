"""Makes records of runs that never took place, and looks at them."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from l2pd_bench.records import Run, load_runs
from l2pd_bench.report import Board, make_board, print_board
from l2pd_bench.report.board import Row, Section
from l2pd_bench.schema import Git, Manifest, Nfe, Sample, Seconds, StrategyRecord, Tokens, Warmup
from l2pd_bench.seal import run_id
from l2pd_bench.writer import open_run

FIXED, FAST, ROUGH = "fixed-step", "threshold:tau=0.9", "fixed-step:k=8,order=left-to-right"
WARMUP = Warmup(samples=1, rounds=2, seconds=0.5, is_stable=True)
PROTOCOL: dict[str, Any] = {
    **{"model": "mini", "revision": "1", "weights_hash": "ab" * 32, "dtype": "float32", "attention": "sdpa"},
    **{"device": "cpu", "task": "mini-math", "data_hash": "cd" * 32, "few_shot": 0, "prompt_format": "chat"},
    "grading": "number after the first ####",
    **{
        "gen_length": 128,
        "block_length": 32,
        "schedule": "blocks",
        "cache": "none",
        "eot": "decode",
        "temperature": 0.0,
    },
    **{"seed": 0, "batch_size": 1},
}


def manifest(spec: str = "fixed-step", *, planned: int = 5, code: str = "code", **setting: Any) -> Manifest:
    """What to run: a strategy spec with the settings that are not the default ones."""
    protocol = {**PROTOCOL, **setting}
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    name, _, rest = spec.partition(":")
    params: dict[str, Any] = {"k": 1, "order": "confidence"} if name == "fixed-step" else {}
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        params[key] = json.loads(value) if value[0].isdigit() else value
    return Manifest(
        run_id=run_id(digest, spec, hashlib.sha256(code.encode()).hexdigest()),
        command=f"l2pd-bench run --strategy {spec}",
        protocol=protocol,
        protocol_hash=digest,
        task_spec=str(protocol["task"]),
        model_spec=str(protocol["model"]),
        strategy=StrategyRecord(
            name=name,
            params=params,
            spec=spec,
            slug=spec.replace(":", "-").replace("=", "").replace(",", "-"),
            distribution="l2pd-bench",
            version="0.1.0",
            code_hash=hashlib.sha256(code.encode()).hexdigest(),
            deployable=not name.startswith("oracle"),
        ),
        environment={"cores": 2, "packages": {"torch": "2.13.0"}},
        git=Git(commit=None, dirty=None),
        planned=planned,
    )


def sample(number: int, segment: int = 0, *, speed: float = 1.0, accuracy: float = 0.8, **changes: Any) -> Sample:
    """Sample `number` as a strategy of this speed and accuracy would leave it; `changes` override fields."""
    draw = random.Random(f"{number} {speed} {accuracy}")
    net = 20 + number % 7
    steps = max(1, round(64 / speed))
    decode = (0.5 + 0.1 * random.Random(number).random() + 0.02 * draw.random()) / speed
    right = draw.random() < accuracy
    made = Sample(
        doc_id=f"mini-math/{number:03d}",
        status="ok",
        error=None,
        prompt_tokens=30,
        output_ids=[number] * 128,
        full_text=f"answer {number}" if right else f"wrong {number}",
        text=f"answer {number}" if right else f"wrong {number}",
        answer=str(number),
        correct=right,
        score=float(right),
        tokens=Tokens(net=net, answer=net - 1, gross=128),
        nfe=Nfe(full=4, window=steps - 4 if steps > 4 else 0, auxiliary=0),
        positions=steps * 160,
        flops=steps * 10**9,
        forced_commits=int(number % 10 == 0),
        overrides=0,
        cut_tokens=0,
        seconds=Seconds(decode=decode, model=0.9 * decode, select=0.02 * decode, latency=decode),
        segment=segment,
        elapsed_s=float(number),
        timed=True,
    )
    return replace(made, **changes)


def record(root: Path, what: Manifest, samples: Sequence[Sample], *, session: str = "s0", finished: bool = True) -> Run:
    """Write a run in one session, and read it back."""
    with open_run(root, what) as writer:
        segment = writer.start_segment(session, WARMUP)
        writer.append([replace(s, segment=segment) for s in samples])
        if finished:
            writer.finish("finished")
        return load_run(writer.folder)


def fill(root: Path, count: int = 40) -> None:
    """Three strategies, without and with a cache, on one task; one strategy alone on another."""
    for cache, factor in (("none", 1.0), ("dual", 2.5)):
        for spec, speed, accuracy in ((FIXED, 1.0, 0.9), (FAST, 5.0, 0.85), (ROUGH, 7.0, 0.5)):
            samples = [sample(i, speed=speed * factor, accuracy=accuracy) for i in range(count)]
            record(root, manifest(spec, planned=count, cache=cache), samples)
    record(root, manifest(FAST, planned=count, task="mini-code"), [sample(i) for i in range(count)])


def load_run(folder: Path) -> Run:
    """The one run in a folder."""
    (run,) = load_runs(folder)
    return run


def stored(root: Path, count: int = 3) -> tuple[Path, Path]:
    """A finished run of a few samples: its manifest and its samples."""
    run = record(root, manifest(planned=count), [sample(i) for i in range(count)])
    return run.folder / "run.json", run.folder / "samples.jsonl"


def content(root: Path) -> dict[str, bytes]:
    """Every record file below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def one_section(*runs: Run) -> Section:
    """The section that these runs make."""
    (section,) = make_board(runs).sections
    return section


def rows(section: Section) -> dict[str, Row]:
    """The rows of a section by strategy."""
    return {row.spec: row for row in section.rows}


def rendered(board: Board, width: int) -> str:
    """What the terminal shows, without colour."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_board(board, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
