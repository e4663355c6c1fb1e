"""A board as one HTML file that works offline.

Puts the static parts beside this module together with the data that `html_data.py` and
`html_samples.py` make. The page asks for nothing from anywhere: its policy allows this script
and this style alone. What comes from records stands in packed blocks, and the script shows it
as text only. Knows nothing of columns, rows and samples.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import TypeVar

from l2pd_bench import __version__
from l2pd_bench.report import html_samples
from l2pd_bench.report.board import Board
from l2pd_bench.report.html_data import board_data

SCRIPTS = ("page_parts.js", "page_board.js", "page_plot.js", "page_samples.js", "page_replay.js", "page.js")
TYPE = "application/gzip+base64"
ANSWERS_BYTES = 8_000_000  # of the packed samples of all sections
TRACES_BYTES = 1_500_000  # of the packed traces of all sections
CAPS = (4000, 2000, 1000, 500, 300, 200, 100, 0)  # characters that are kept of a text, where all are too many
TRACED_ITEMS = (20, 10, 5, 2, 1, 0)  # per section

Limit = TypeVar("Limit")


def to_html(board: Board) -> str:
    """The page. The same records always give the same bytes."""
    pools = [html_samples.Answers(section) for section in board.sections]
    traced = [html_samples.traced_items(section) for section in board.sections]
    longest = max((pool.longest for pool in pools), default=0)
    caps = (None, *(cap for cap in CAPS if cap < longest))
    cap, answers = _fitting(lambda cap: (pack(pool.data(cap)) for pool in pools), caps, ANSWERS_BYTES)
    items, traces = _fitting(
        lambda most: (
            pack(html_samples.traces_data(section, ids[:most]))
            for section, ids in zip(board.sections, traced, strict=True)
        ),
        TRACED_ITEMS,
        TRACES_BYTES,
    )
    counts = [(min(items, len(ids)), len(ids)) for ids in traced]
    blocks = {"board": pack(board_data(board, cap, counts))}
    blocks |= {f"samples-{index}": text for index, text in enumerate(answers)}
    blocks |= {f"traces-{index}": text for index, text in enumerate(traces)}
    style, script = _part("page.css"), "\n".join(map(_part, SCRIPTS))
    filled = {
        "policy": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'",
        "version": __version__,
        "style": style,
        "script": script,
        "data": "\n".join(f'<script type="{TYPE}" id="data-{name}">{text}</script>' for name, text in blocks.items()),
    }
    return re.sub(r"\[\[(\w+)\]\]", lambda found: filled[found[1]], _part("page.html"))


def pack(data: object) -> str:
    """JSON, compressed, in letters that mean nothing in HTML; it can hold any text, lone surrogates included."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _fitting(
    packed: Callable[[Limit], Iterable[str]], limits: Sequence[Limit], most_bytes: int
) -> tuple[Limit, list[str]]:
    """The first limit under which all blocks together are small enough, or else the last one; and the blocks."""
    for limit in limits:
        blocks: list[str] = []
        room = most_bytes
        for block in packed(limit):
            blocks.append(block)
            room -= len(block)
            if room < 0 and limit != limits[-1]:
                break
        else:
            break
    return limit, blocks


def _part(name: str) -> str:
    return (files("l2pd_bench.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
