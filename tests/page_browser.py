"""Opens HTML reports in a headless Chromium; who imports this is skipped where there is none."""

from __future__ import annotations

import atexit
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from page_factory import add_traces, spoken, trace
from record_factory import FAST, FIXED, ROUGH, manifest, record

from l2pd_bench.records import Run
from l2pd_bench.report import Board, make_board

CHROMIUM = shutil.which("chromium")
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
if CHROMIUM is None:
    pytest.skip("needs Debian's chromium: apt-get install chromium", allow_module_level=True)

ITEMS = 120
ORACLE = "oracle"
LOADED = "#all[data-section='{}'][data-loaded=all]"


@cache
def browser() -> Any:
    """A headless Chromium, one for the process."""
    from playwright.sync_api import sync_playwright

    playwright = sync_playwright().start()
    atexit.register(playwright.stop)
    return playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], headless=True)


@contextmanager
def opened(html: str, *, width: int = 1300, **options: Any) -> Iterator[Any]:
    """A report, open; at the end nothing must have been complained about, and nothing asked for but the file."""
    told: list[str] = []
    asked: list[str] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(html, encoding="utf-8")
        context = browser().new_context(viewport={"width": width, "height": 900}, **options)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: (told.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        try:
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]", timeout=30_000)
            yield page
        finally:
            context.close()
        assert told == []
        assert asked == [path.as_uri()]


@cache
def small_runs() -> list[Run]:
    """Four runs over the same items, one of which cannot be deployed; of the first two, some items are traced."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    made = []
    for spec, speed, accuracy in ((FIXED, 1.0, 0.9), (FAST, 5.0, 0.8), (ROUGH, 7.0, 0.5), (ORACLE, 9.0, 0.9)):
        samples = [spoken(i, spec, speed=speed, accuracy=accuracy) for i in range(ITEMS)]
        made.append(record(Path(folder.name), manifest(spec, planned=ITEMS), samples))
    ids = [s.doc_id for s in made[0].samples]
    add_traces(made[0], [trace(i, FIXED, per_step=1) for i in ids[3:6]])
    add_traces(made[1], [trace(i, FAST, cut=18) for i in ids[4:7]])
    return made


@cache
def small_board() -> Board:
    """Their board, one row made INVALID, and one without its TPS."""
    board = make_board(small_runs())
    (section,) = board.sections
    rows = [replace(r, invalid=("drift of 12 %",), verdict=None) if r.spec == ROUGH else r for r in section.rows]
    rows = [replace(r, tps=None, tps_interval=None) if r.spec == ORACLE else r for r in rows]
    return replace(board, sections=(replace(section, rows=tuple(rows)),))


def choose(page: Any, left: str, right: str) -> None:
    """Choose two strategies of the small board."""
    rows = [row.spec for row in small_board().sections[0].rows]
    page.select_option("#left", str(rows.index(left)))
    page.select_option("#right", str(rows.index(right)))


def specs(page: Any) -> list[str]:
    """The strategies of the board, as they stand."""
    return [line.get_attribute("data-spec") for line in page.locator("#rows tbody tr").all()]


def wait_until(happens: Callable[[], bool]) -> None:
    """Wait for what the page does by itself; its policy lets no expression be watched from inside."""
    until = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.02)
