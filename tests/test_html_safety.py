"""The HTML report in a real browser with hostile texts, and with boards of which half is missing."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from page_browser import browser, opened, specs, wait_until
from page_factory import hostile_board
from record_factory import FIXED, manifest, record, sample

from l2pd_bench.report import RENDERERS, Board, make_board
from l2pd_bench.report.columns import shown


class TestHostile:
    def test_texts(self, tmp_path: Path) -> None:
        """Markup, script and marks of direction in any text of a record are shown as text, and nothing of it runs."""
        board = hostile_board(tmp_path)
        with opened(RENDERERS["html"](board)) as page:
            for line in page.locator("#items tbody button").all():
                line.click()
            page.click("#last")
            page.locator(".mark").first.focus()
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            visible = "<script>alert(1)</script></script><img src=x onerror=alert(2)><!-- ]]> &amp; {{x}} [[data]] "
            for place in (
                "#notes",
                "#title",
                "#rows",
                "#remarks",
                "#answers",
                "#items",
                "#origin",
                "#canvases",
                ".tip",
                "#left",
            ):
                assert visible in page.locator(place).text_content(), place
            everything = page.evaluate("document.body.textContent")
            assert not re.search("[\u2028\u2029\u202e\u2066\x00\x1b\ufeff]", everything)
            assert "\u27e8U+202E\u27e9right to left" in everything
            assert "\u27e8U+D800\u27e9" in everything or "\ufffd" in everything
            assert page.locator("img").count() == 0
            assert page.locator("script:not([type])").count() == 0

    def test_policy(self, tmp_path: Path, board: Board) -> None:
        """Markup that got into the page all the same could neither run nor reach a server: the policy forbids it."""
        reached: list[str] = []

        class Server(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                reached.append(self.path)
                self.send_error(404)

        path = tmp_path / "report.html"
        path.write_text(RENDERERS["html"](board), encoding="utf-8")
        server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser().new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.evaluate(
            """async (url) => {
              document.body.insertAdjacentHTML('beforeend', `<img src="${url}/img" onerror="window.ran = 1">
                <link rel="stylesheet" href="${url}/css"><iframe src="${url}/frame"></iframe><p style="color: red">`);
              for (const [key, value] of [['text', 'window.ran = 1'], ['src', `${url}/script`]]) {
                document.body.append(Object.assign(document.createElement('script'), { [key]: value }));
              }
              await fetch(`${url}/fetch`).catch(() => null);
              await new Promise((done) => setTimeout(done, 300));
            }""",
            f"http://127.0.0.1:{server.server_port}",
        )
        assert page.evaluate("window.ran") is None
        assert page.evaluate("getComputedStyle(document.body.lastElementChild).color") != "rgb(255, 0, 0)"
        assert reached == []
        page.evaluate(f"open('http://127.0.0.1:{server.server_port}/opened')")  # the server can be reached
        wait_until(lambda: "/opened" in reached)
        page.close()
        server.shutdown()


class TestUnusualBoards:
    def test_empty(self) -> None:
        """A board without runs says how to make some."""
        with opened(RENDERERS["html"](Board(("a note",), ()))) as page:
            assert "There are no runs here" in page.inner_text("main")
            assert page.inner_text("#notes") == "a note"
            assert page.is_hidden("#all")

    @pytest.mark.parametrize("kind", ["no baseline", "unfinished", "ungraded", "derived only", "no samples"])
    def test_sensible(self, tmp_path: Path, kind: str) -> None:
        """Half a board is a page without a mistake: every row is there, and what is missing is a dash or a sentence."""
        setting = {"grading": "none"} if kind == "ungraded" else {}
        taus = ("threshold:tau=0.8", "threshold:tau=0.9")
        names = taus if kind == "no baseline" else (FIXED, *taus)
        count = 0 if kind == "no samples" else 6
        made = [
            record(
                tmp_path,
                manifest(spec, planned=6, **setting),
                [sample(i) for i in range(count)],
                finished=kind not in ("unfinished", "no samples"),
            )
            for spec in names
        ]
        board = make_board(made)
        if kind == "derived only":
            (section,) = board.sections
            board = replace(
                board, sections=(replace(section, rows=tuple(r for r in section.rows if r.derived), frontier=None),)
            )
        with opened(RENDERERS["html"](board)) as page:
            assert specs(page) == [row.spec for row in board.sections[0].rows] != []
            assert page.locator("#rows tbody tr").first.locator("td").count() == len(shown(board.sections[0])) + 1
            for i in range(len(board.sections[0].rows)):
                page.select_option("#left", str(i))
            if kind == "unfinished":
                assert page.locator(".badge", has_text="running").count() == len(names)
            if kind == "ungraded":
                assert "Nothing to plot" in page.inner_text("#figure")
                assert page.locator("#items .state").first.inner_text() == "ungraded"
            if kind == "derived only":
                assert "l2pd-bench run ..." in page.inner_text("#untraced")
            if kind == "no samples":
                assert page.inner_text("#found") == "0 of 0 items"
