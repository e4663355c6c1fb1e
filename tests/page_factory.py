"""Makes HTML reports of runs that never took place, and reads what is packed in them."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from record_factory import manifest, record, sample

from l2pd_bench.records import Run
from l2pd_bench.report import Board, make_board
from l2pd_bench.schema import Sample
from l2pd_bench.trace import Trace, TraceStep, encode_trace

HOSTILE = (
    "<script>alert(1)</script></script><img src=x onerror=alert(2)><!-- ]]> &amp; {{x}} [[data]] "
    "\u2028\u2029 \u202eright to left\u2066 \x00 \x1b[31m \ufeff"
)
LENGTH, BLOCK = 24, 8
MASK, GONE = None, "gone"
_BLOCK = re.compile(r'<script type="application/gzip\+base64" id="data-([a-z0-9-]+)">([^<]*)</script>')


def unpacked(page: str) -> dict[str, Any]:
    """The data blocks of a page by name."""
    return {name: json.loads(gzip.decompress(base64.b64decode(text))) for name, text in _BLOCK.findall(page)}


def without_data(page: str) -> str:
    """The page but for its data blocks."""
    return _BLOCK.sub("", page)


def words(seed: object, length: int) -> str:
    """About `length` characters of varied words."""
    draw = random.Random(str(seed))
    found = ""
    while len(found) < length:
        found += "".join(draw.choices("etaoinshrdlucmfwypvbgk", k=draw.randint(2, 9))) + draw.choice(
            (" ", " ", ", ", "\n")
        )
    return found.strip()


def trace(doc_id: str, seed: object, *, per_step: int = 3, cut: int | None = None) -> Trace:
    """A decode of random words, block by block; some are emptied again, and `cut` ends the canvas half-way."""
    draw = random.Random(f"{doc_id} {seed}")
    vocabulary = {i: f" {words((seed, i), 4)[:5].strip()}" for i in range(40)} | {
        40: "\n",
        41: "<|endoftext|>",
        42: HOSTILE,
    }
    steps: list[TraceStep] = []
    end = LENGTH
    for start in range(0, LENGTH, BLOCK):
        masks = list(range(start, min(start + BLOCK, end)))
        may_empty = True
        while masks := [c for c in masks if c < end]:
            now = sorted(draw.sample(masks, min(per_step, len(masks))))
            masks = [c for c in masks if c not in now]
            emptied = [] if not may_empty or not steps or start == 0 else [start - 1]
            may_empty = False
            if cut is not None and start >= BLOCK:
                end = cut
            steps.append(
                TraceStep(
                    block=(start, min(start + BLOCK, end)),
                    columns=now,
                    tokens=[draw.randrange(43) for _ in now],
                    confidences=[round(draw.random(), 4) for _ in now],
                    remasked=emptied,
                    end=end,
                )
            )
            if emptied:  # and filled in again in the next step
                masks = [*emptied, *masks]
    return Trace(doc_id=doc_id, prompt=f"prompt of {doc_id}", gen_length=LENGTH, vocabulary=vocabulary, steps=steps)


def replayed(told: Trace, count: int) -> list[str | None]:
    """The canvas after `count` steps: texts, None for a mask, GONE for what is cut off."""
    canvas: list[str | None] = [MASK] * told.gen_length
    end = told.gen_length
    for step in told.steps[:count]:
        end = step.end
        for column in step.remasked:
            canvas[column] = MASK
        for column, token in zip(step.columns, step.tokens, strict=True):
            canvas[column] = told.vocabulary[token]
    return [GONE if column >= end else text for column, text in enumerate(canvas)]


def add_traces(run: Run, traces: Sequence[Trace]) -> None:
    """Write traces beside a run."""
    (run.folder / "trace.jsonl").write_bytes(b"".join(map(encode_trace, traces)))


def spoken(number: int, seed: object, **changes: Any) -> Sample:
    """A sample whose answer is varied words, the same for about half of the seeds."""
    said = words((number, seed if random.Random(f"{number} {seed}").random() < 0.5 else "same"), 120)
    return replace(sample(number, **changes), text=said)


def hostile_board(root: Path, text: str = HOSTILE) -> Board:
    """A board on which every text that a user, a machine or a model chooses holds `text`; one item is traced."""
    runs = []
    root = root / "".join(c for c in text if c not in "/\x00")
    for spec in ("fixed-step", "threshold:tau=0.5"):
        run = record(root, manifest(spec, planned=3), [sample(i) for i in range(3)])
        add_traces(run, [trace(run.samples[0].doc_id, spec)])
        what = replace(
            run.manifest,
            notes=[f"note {text}"],
            command=f"l2pd-bench run {text}",
            error=f"failed {text}",
            status="failed",
            environment={"hostname": text, "packages": {text: text}},
            strategy=replace(run.manifest.strategy, spec=f"{spec}{text}"),
            protocol={**run.manifest.protocol, "model": f"mini {text}"},
        )
        first, second, third = run.samples
        said = (
            replace(first, text=f"{spec} {text}", answer=text),
            replace(second, text=f"{spec} \ud800 {text}", answer=f"{text}\udfff"),
            replace(third, doc_id=f"item {text}", status="error", error=text, correct=False),
        )
        runs.append(replace(run, manifest=what, samples=said))
    return make_board(runs)
