"""Reports: one result model (`model.py`), several renderers."""

from __future__ import annotations

from collections.abc import Callable

from l2pd_bench.report.board import Board
from l2pd_bench.report.export import to_csv, to_json
from l2pd_bench.report.html import to_html
from l2pd_bench.report.latex import to_latex
from l2pd_bench.report.markdown import to_markdown
from l2pd_bench.report.model import make_board
from l2pd_bench.report.terminal import print_board

RENDERERS: dict[str, Callable[[Board], str]] = {
    "markdown": to_markdown,
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
    "html": to_html,
}

__all__ = ["RENDERERS", "Board", "make_board", "print_board"]
