"""Board, plot and answers of the HTML report in a real browser: as Python computes them from the records."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from page_browser import ITEMS, LOADED, ORACLE, opened, small_board, specs
from record_factory import FAST, FIXED, manifest, record, sample

from l2pd_bench.report import RENDERERS, Board, make_board
from l2pd_bench.report.columns import name, shown
from l2pd_bench.report.html_data import number


class TestBoard:
    def test_sort(self) -> None:
        """Every column sorts both ways as Python does, by value and not by text, with what is missing last."""
        small = small_board()
        (section,) = small.sections
        with opened(RENDERERS["html"](small)) as page:
            assert specs(page) == [row.spec for row in section.rows]
            for place, column in enumerate(shown(section), start=1):
                head = page.locator("#rows thead th").nth(place)
                values = {row.spec: number(column, row) for row in section.rows}
                if all(value is None for value in values.values()):
                    continue
                directions = []
                for _ in range(2):
                    head.locator("button").click()
                    directions.append(head.get_attribute("aria-sort"))
                    is_down = directions[-1] == "descending"
                    known = [row.spec for row in section.rows if values[row.spec] is not None]
                    missing = [row.spec for row in section.rows if values[row.spec] is None]
                    known.sort(key=lambda spec: values[spec], reverse=is_down)  # type: ignore[arg-type, return-value]
                    assert specs(page) == known + missing, (column.title, directions[-1])
                assert directions == (["descending", "ascending"] if column.highest else ["ascending", "descending"])
                assert page.locator("#rows [aria-sort]").count() == 1
            page.locator("#rows thead button").first.click()
            assert specs(page) == sorted(row.spec for row in section.rows)

    def test_filters(self) -> None:
        """The box keeps the strategies that contain its text, the toggles the VALID and the deployable ones."""
        small = small_board()
        (section,) = small.sections
        with opened(RENDERERS["html"](small)) as page:
            page.fill("#filter", "STEP")
            assert specs(page) == [r.spec for r in section.rows if "step" in r.spec]
            assert page.text_content("#count") == "2 of 4 rows"
            page.fill("#filter", "")
            page.check("#only-valid")
            assert specs(page) == [r.spec for r in section.rows if not r.invalid] and len(specs(page)) == 3
            page.check("#only-deployable")
            assert specs(page) == [r.spec for r in section.rows if not r.invalid and r.deployable]
            page.uncheck("#only-valid")
            assert specs(page) == [r.spec for r in section.rows if r.deployable] and len(specs(page)) == 3
            assert page.locator(".badge.bad").all_text_contents() == ["INVALID"]
            assert page.locator(".badge.bad").get_attribute("title") == "drift of 12 %"

    def test_sections(self, board: Board) -> None:
        """The chooser holds every setting below its task, and shows the chosen one's rows, remarks and setting."""
        with opened(RENDERERS["html"](board)) as page:
            labels = page.eval_on_selector_all("#section optgroup", "groups => groups.map(g => g.label)")
            assert labels == list(dict.fromkeys(s.task for s in board.sections))
            for i, section in enumerate(board.sections):
                page.select_option("#section", str(i))
                page.wait_for_selector(LOADED.format(i))
                assert page.text_content("#title") == section.title
                assert specs(page) == [row.spec for row in section.rows]
                assert page.locator("#remarks li").all_text_contents() == list(section.remarks)
                setting = page.locator("#setting dt").all_text_contents()
                assert setting == list(section.protocol)


class TestPlot:
    def test_marks(self) -> None:
        """Every row with a speed has one mark; hover and focus tell its numbers, and arrow keys go through all."""
        small = small_board()
        (section,) = small.sections
        with opened(RENDERERS["html"](small)) as page:
            for speed, missing in (("tps", {ORACLE}), ("tpf", set())):
                page.check(f"input[value={speed}]")
                drawn = page.eval_on_selector_all(".mark", "marks => marks.map(m => m.dataset.spec)")
                ranked = sorted((r for r in section.rows if r.spec not in missing), key=lambda r: getattr(r, speed))
                assert drawn == [r.spec for r in ranked]
                page.locator(".mark[tabindex='0']").focus()
                for i, row in enumerate(ranked):
                    tip = page.inner_text(".tip")
                    assert page.evaluate("document.activeElement.dataset.spec") == row.spec
                    assert tip.startswith(name(row))
                    for column in shown(section):
                        if column.group == "result":
                            assert f"{column.title}\n{column.text(row)}" in tip
                    assert ("drift of 12 %" in tip) == bool(row.invalid)
                    page.keyboard.press("ArrowRight" if i < len(ranked) - 1 else "Escape")
                assert page.locator(".tip").is_hidden()
                page.locator(".mark").first.hover()
                assert page.inner_text(".tip").startswith(name(ranked[0]))
            assert "No frontier" not in page.inner_text("#plot-key")

    def test_places(self) -> None:
        """Marks and the ends of intervals stand where a straight or logarithmic scale through two marks puts them."""
        small = small_board()
        (section,) = small.sections
        rows = sorted((r for r in section.rows if r.tps is not None), key=lambda r: r.tps or 0)
        read = "m => { const b = m.lastChild.getBBox(); return [b.x + b.width / 2, b.y + b.height / 2]; }"
        with opened(RENDERERS["html"](small)) as page:
            for is_log, scale in ((True, math.log), (False, float)):
                page.set_checked("#log", is_log)
                places = [page.locator(".mark").nth(i).evaluate(read) for i in range(3)]
                xs, ys = [scale(r.tps) for r in rows], [float(r.accuracy or 0) for r in rows]
                for at, values in ((0, xs), (1, ys)):
                    unit = (places[2][at] - places[0][at]) / (values[2] - values[0])
                    assert places[1][at] == pytest.approx(places[0][at] + unit * (values[1] - values[0]), abs=0.1)
                lines = page.eval_on_selector_all(
                    ".interval", "l => l.map(n => ['x1','x2','y1','y2'].map(k => +n.getAttribute(k)))"
                )
                unit = (places[2][1] - places[0][1]) / (ys[2] - ys[0])
                for row, (x, y) in zip(rows, places, strict=True):
                    ends = row.accuracy_interval
                    assert ends is not None and row.accuracy is not None
                    wanted = sorted(y + unit * (end - row.accuracy) for end in ends)
                    assert any(
                        abs(x1 - x) < 0.1 and abs(x2 - x) < 0.1 and sorted((y1, y2)) == pytest.approx(wanted, abs=0.1)
                        for x1, x2, y1, y2 in lines
                    )

    def test_frontier(self) -> None:
        """The broad line passes through the rows on the frontier and through no other; without one, it is said."""
        small = small_board()
        (section,) = small.sections
        assert section.frontier is not None
        best = [r.spec for r in section.frontier.by_tps]
        read = "m => { const b = m.lastChild.getBBox(); return [b.x + b.width / 2, b.y + b.height / 2]; }"
        with opened(RENDERERS["html"](small)) as page:
            path = page.get_attribute("path.frontier", "d")
            corners = corners_of(path)
            ends = [page.locator(f".mark[data-spec='{spec}']").evaluate(read) for spec in best]
            for cx, cy in corners:  # nothing on the line is faster and better than a row on the frontier
                assert any(cx <= x + 0.1 and cy >= y - 0.1 for x, y in ends)
            for mark in page.locator(".mark").all():
                x, y = mark.evaluate(read)
                is_on = any(abs(x - cx) < 0.1 and abs(y - cy) < 0.1 for cx, cy in corners)
                assert is_on == (mark.get_attribute("data-spec") in best)
        bare = replace(small, sections=(replace(section, frontier=None),))
        with opened(RENDERERS["html"](bare)) as page:
            assert page.locator("path.frontier").count() == 0
            assert page.locator(".mark").count() == 3
            assert "No frontier" in page.inner_text("#plot-key")


def corners_of(path: str) -> list[tuple[float, float]]:
    """The corners of a path of M, H and V."""
    x = y = 0.0
    found = []
    for letter, told in re.findall(r"([MHV])([-0-9.,e]+)", path):
        if letter == "M":
            x, y = map(float, told.split(","))
        x, y = (float(told), y) if letter == "H" else (x, float(told)) if letter == "V" else (x, y)
        found.append((x, y))
    return found


class TestSideBySide:
    def test_counts(self) -> None:
        """The filters keep as many items as Python counts, in pages; each line has the sample's numbers."""
        small = small_board()
        (section,) = small.sections
        with opened(RENDERERS["html"](small)) as page:
            for left, right in ((0, 1), (2, 3)):
                page.select_option("#left", str(left))
                page.select_option("#right", str(right))
                pairs = list(zip(section.rows[left].run.samples, section.rows[right].run.samples, strict=True))
                differ = [a.doc_id for a, b in pairs if a.text != b.text]
                one = [a.doc_id for a, b in pairs if a.correct != b.correct]
                for which, wanted in (("all", [a.doc_id for a, _ in pairs]), ("differ", differ), ("one", one)):
                    page.select_option("#which", which)
                    assert page.text_content("#found") == f"{len(wanted)} of {ITEMS} items"
                    seen: list[str] = []
                    while True:
                        seen += [t.get_attribute("data-item") for t in page.locator("#items tbody tr").all()]
                        if page.is_disabled("#page-on"):
                            break
                        page.click("#page-on")
                    assert seen == wanted
                page.select_option("#which", "all")
                page.fill("#find", pairs[77][0].doc_id)
                cells = page.locator("#items tbody tr td").all_text_contents()
                for told, s in zip((cells[:5], cells[5:]), pairs[77], strict=True):
                    assert told[:4] == [
                        "right" if s.correct else "wrong",
                        s.answer,
                        str(s.tokens.net),
                        str(s.nfe.total),
                    ]
                    assert float(told[4]) == pytest.approx(s.seconds.decode, rel=0.005)
                page.fill("#find", "")

    def test_answers(self) -> None:
        """A chosen item shows both answers whole, side by side; what is not marked is the same in both."""
        small = small_board()
        (section,) = small.sections
        with opened(RENDERERS["html"](small)) as page:
            page.select_option("#left", "0")
            page.select_option("#right", "1")
            page.select_option("#which", "differ")
            page.locator("#items tbody tr").nth(2).click()
            ours, theirs = (row.run.samples for row in section.rows[:2])
            for _ in range(3):
                doc_id = page.text_content("#answers h3")
                texts = [next(s.text for s in run if s.doc_id == doc_id) for run in (ours, theirs)]
                assert page.locator("#answers pre").all_text_contents() == texts
                unmarked = [
                    pre.evaluate("p => [...p.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('')")
                    for pre in page.locator("#answers pre").all()
                ]
                assert unmarked[0] == unmarked[1] != ""
                assert page.locator("#answers mark").count() > 0
                page.click("#answers >> text=Next item")
                assert page.evaluate("document.activeElement.textContent") == "Next item"
            page.click("#answers >> text=Close")
            assert page.is_hidden("#answers")

    def test_longest_common_words(self, tmp_path: Path) -> None:
        """As much stays unmarked as a longest common subsequence of words has, which a plain recursion finds."""
        draw = random.Random(0)
        sides = [[" ".join(draw.choices("abcd", k=draw.randint(0, 7))) for _ in range(12)] for _ in range(2)]
        made = [
            record(tmp_path, manifest(spec, planned=12), [replace(sample(i), text=side[i]) for i in range(12)])
            for spec, side in zip((FIXED, FAST), sides, strict=True)
        ]

        def longest(a: list[str], b: list[str]) -> int:
            if not a or not b:
                return 0
            if a[0] == b[0]:
                return 1 + longest(a[1:], b[1:])
            return max(longest(a[1:], b), longest(a, b[1:]))

        with opened(RENDERERS["html"](make_board(made))) as page:
            page.locator("#items tbody button").first.click()
            for i in range(12):
                unmarked = page.locator("#answers pre").first.evaluate(
                    "p => [...p.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('')"
                )
                left, right = (re.findall(r"\s+|\w", sides[k][i]) for k in (0, 1))
                assert len(unmarked) == longest(left, right)
                if i < 11:
                    page.click("#answers >> text=Next item")
