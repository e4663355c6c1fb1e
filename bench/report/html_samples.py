"""What a section's strategies answered, and how they decoded it, as the HTML page takes it.

Every text is held once, as the answers of different strategies are often equal. Samples are
arrays along the section's items. Knows nothing of how it is packed and shown.
"""

from __future__ import annotations

import re
from collections import Counter

from l2pd_bench.report import pairing
from l2pd_bench.report.board import Row, Section
from l2pd_bench.schema import Sample
from l2pd_bench.trace import Trace, TraceStep, read_traces

NO_SAMPLE, RIGHT, WRONG, UNGRADED, ERROR = "-", "r", "w", "u", "e"
NONE = -1  # no text


class Texts:
    """Texts by number, each one held once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of `text`, which is kept."""
        return self._numbers.setdefault(text, len(self._numbers))

    def data(self, cap: int | None = None) -> list[str | list[str | int]]:
        """The texts by number; of a longer one than `cap` the beginning, and how long it is."""
        return [text if cap is None or len(text) <= cap else [text[:cap], len(text)] for text in self._numbers]


class Answers:
    """The samples of a section."""

    def __init__(self, section: Section) -> None:
        self._rows = section.rows
        samples = [{s.doc_id: s for s in row.run.samples} for row in section.rows]
        self._items = sorted({doc_id for row in samples for doc_id in row}, key=counting)
        self._samples = [[row.get(doc_id) for doc_id in self._items] for row in samples]
        self._texts = Texts()
        for of_item in zip(*self._samples, strict=True):  # alike texts beside each other pack well
            for sample in filter(None, of_item):
                for text in (sample.text, sample.answer, sample.error or ""):
                    self._texts.number(text)

    @property
    def longest(self) -> int:
        """Characters of the longest text."""
        return max(map(len, self._texts.data()), default=0)

    def data(self, cap: int | None) -> object:
        """Items, texts of at most `cap` characters, and the samples of every row along the items."""
        rows = [self._row(row, samples) for row, samples in zip(self._rows, self._samples, strict=True)]
        return {"items": self._items, "texts": self._texts.data(cap), "rows": rows}

    def _row(self, row: Row, samples: list[Sample | None]) -> object:
        number = self._texts.number
        errors = {i: number(s.error or "") for i, s in enumerate(samples) if s and s.status != "ok"}
        return {
            "state": "".join(_state(row, s) for s in samples),
            "text": [number(s.text) if s else NONE for s in samples],
            "answer": [number(s.answer) if s else NONE for s in samples],
            "net": [s.tokens.net if s else None for s in samples],
            "nfe": [s.nfe.total if s else None for s in samples],
            "seconds": [round(s.seconds.decode, 6) if s and s.timed else None for s in samples],
            "errors": errors,
        }


def traced_items(section: Section) -> list[str]:
    """The items of which there are traces: those traced by most rows first, then in their order."""
    counts = Counter(doc_id for row in section.rows if not row.derived for doc_id in read_traces(row.run.folder))
    return sorted(counts, key=lambda doc_id: (-counts[doc_id], counting(doc_id)))


def traces_data(section: Section, items: list[str]) -> object:
    """The traces of these items by row (None: not traced), along the items, and their texts."""
    texts = Texts()
    rows: list[object] = []
    for row in section.rows:
        traces = {} if row.derived or not items else read_traces(row.run.folder)
        rows.append([_trace(traces[item], texts) if item in traces else None for item in items])
    return {"items": items, "rows": rows, "texts": texts.data()}


def counting(doc_id: str) -> str:
    """A key by which item 2 stands before item 10."""
    return re.sub(r"[0-9]+", lambda found: found[0].zfill(20), doc_id)


def _state(row: Row, sample: Sample | None) -> str:
    if sample is None:
        return NO_SAMPLE
    if sample.status != "ok":
        return ERROR
    if not row.run.manifest.graded:
        return UNGRADED
    return RIGHT if pairing.correct(sample) else WRONG


def _trace(trace: Trace, texts: Texts) -> object:
    def step(told: TraceStep) -> object:
        tokens = [texts.number(trace.vocabulary.get(token, f"<{token}>")) for token in told.tokens]
        sure = [round(confidence, 3) for confidence in told.confidences]
        return [*told.block, told.end, told.columns, tokens, sure, told.remasked]

    return {"prompt": texts.number(trace.prompt), "length": trace.gen_length, "steps": [step(s) for s in trace.steps]}
