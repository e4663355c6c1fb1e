"""The HTML report as a file: nothing hostile outside its data, one script, one style, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from page_factory import hostile_board, unpacked, without_data

from l2pd_bench.records import load_runs
from l2pd_bench.report import RENDERERS, Board, html, make_board

STATIC = Path(html.__file__).parent


class Parts(HTMLParser):
    """Tags with their attributes, and the contents of styles and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[str, list[str]] = {"style": [], "script": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """What follows is in no element that matters here."""
        self.tags.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        """Keep what stands in a style or a script."""
        if self.tags and self.tags[-1][0] in self.contents:
            self.contents[self.tags[-1][0]].append(data)


class TestPage:
    def test_nothing_hostile_outside_the_data(self, board: Board, tmp_path: Path) -> None:
        """But for the packed blocks, a page of hostile records is, byte for byte, that of any other."""
        page = RENDERERS["html"](hostile_board(tmp_path))
        blocks = 1 + 2 * len(hostile_board(tmp_path / "again").sections)

        kept, other = without_data(page), without_data(RENDERERS["html"](board))
        assert re.sub(r"\s+", " ", kept) == re.sub(r"\s+", " ", other)
        assert len(unpacked(page)) == blocks
        assert sum(tag == "script" for tag, _ in Parts(page).tags) == blocks + 1

    def test_policy(self, board: Board) -> None:
        """The page's policy forbids everything but the one script and the one style that are in it."""
        parts = Parts(without_data(RENDERERS["html"](board)))
        ((_, meta),) = ((t, a) for t, a in parts.tags if a.get("http-equiv"))
        rules = dict(rule.strip().split(" ", 1) for rule in str(meta["content"]).split(";"))

        def hashed(kind: str) -> str:
            content = "".join(parts.contents[kind])
            return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

        assert rules == {
            "default-src": "'none'",
            "script-src": hashed("script"),
            "style-src": hashed("style"),
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert not [a for _, a in parts.tags for key in a if key.startswith("on") or key in ("src", "style", "action")]
        assert all(a["href"].startswith("#") for _, a in parts.tags if a.get("href"))  # type: ignore[union-attr]

    def test_static_parts(self) -> None:
        """No part asks for anything from elsewhere, makes markup or code of texts, or ends the element it stands in."""
        for path in [*STATIC.glob("page*.js"), STATIC / "page.css"]:
            text = path.read_text("utf-8")
            assert not re.search("innerHTML|outerHTML|insertAdjacent|document.write|eval|Function\\(|srcdoc", text), (
                path
            )
            assert not re.search(r"</|<!--|@import|url\(|fetch\(|XMLHttpRequest|import[ (]|WebSocket", text), path
            assert set(re.findall(r"https?://[^\"]*", text)) <= {"http://www.w3.org/2000/svg"}, path
        assert {p.name for p in STATIC.glob("page*.js")} == set(html.SCRIPTS)

    def test_same_bytes(self, results: Path, tmp_path: Path) -> None:
        """The same records give the same bytes in any process."""
        made = []
        for seed in ("1", "2"):
            made.append(tmp_path / f"{seed}.html")
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from l2pd_bench.cli import main; main()",
                    "report",
                    str(results),
                    "--format",
                    "html",
                    "-o",
                    str(made[-1]),
                ],
                check=True,
                env={**os.environ, "PYTHONHASHSEED": seed},
            )
        assert made[0].read_bytes() == made[1].read_bytes()
        assert made[0].read_text("utf-8") == RENDERERS["html"](make_board(load_runs(results)))

    def test_empty(self) -> None:
        """A board without runs is a page, too."""
        assert unpacked(RENDERERS["html"](Board((), ())))["board"]["sections"] == []
