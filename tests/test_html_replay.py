"""The replay of the HTML report in a real browser: every step is that of the trace, replayed in Python."""

from __future__ import annotations

import re
from typing import Any

import pytest
from page_browser import LOADED, ORACLE, choose, opened, small_board, small_runs, wait_until
from page_factory import GONE, MASK, replayed
from record_factory import FAST, FIXED, ROUGH

from l2pd_bench.report import RENDERERS, Board
from l2pd_bench.trace import read_traces


def canvas(page: Any, side: int) -> list[str | None]:
    """What a canvas shows."""
    read = "cells => cells.map(c => [c.className.split(' ')[1], c.textContent])"
    kinds = {"mask": lambda _: MASK, "gone": lambda _: GONE, "filled": lambda text: text}
    found = page.locator(".canvas").nth(side).evaluate(f"c => ({read})([...c.querySelectorAll('.cell')])")
    return [kinds[kind](text) for kind, text in found]


def shown_token(text: str) -> str:
    """A token as a cell shows it."""
    if re.fullmatch(r"(<\|.*\|>)?", text, re.DOTALL):
        return "\N{END OF PROOF}"
    text = text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    text = re.sub("[\x00-\x1f]", lambda c: chr(0x2400 + ord(c[0])), text)
    return re.sub("[\u2028\u2029\u202e\u2066\ufeff]", lambda c: f"\u27e8U+{ord(c[0]):04X}\u27e9", text)


class TestReplay:
    def test_lockstep(self) -> None:
        """After any number of steps both canvases are what the traces lead to; a shorter one waits at its end."""
        told = [read_traces(run.folder) for run in small_runs()[:2]]
        both = [i for i in told[0] if i in told[1]]
        with opened(RENDERERS["html"](small_board())) as page:
            choose(page, FIXED, FAST)
            options = page.eval_on_selector_all("#traced option", "o => o.map(n => n.text)")
            assert len(both) == 2 and sum(o in both for o in options) == 2 and len(options) == 4
            for doc_id in both:
                page.select_option("#traced", label=doc_id)
                pair = [told[0][doc_id], told[1][doc_id]]
                most = max(len(t.steps) for t in pair)
                assert page.get_attribute("#step", "max") == str(most) and len(pair[0].steps) != len(pair[1].steps)
                for step in range(most + 1):
                    for side, one in enumerate(pair):
                        wanted = [t if t in (MASK, GONE) else shown_token(str(t)) for t in replayed(one, step)]
                        assert canvas(page, side) == wanted
                        filled = sum(t not in (MASK, GONE) for t in wanted)
                        label = page.locator(".canvas").nth(side).get_attribute("aria-label")
                        assert f"after {min(step, len(one.steps))} forwards: {filled} filled" in label
                    page.click("#on")
                assert page.text_content("#at") == f"{most} / {most}"
                assert GONE in canvas(page, 1) and MASK not in canvas(page, 0)

    def test_cells(self) -> None:
        """The active block is outlined, a cell coloured by its step, and one trace is shown without the other."""
        doc_id, told = next(iter(read_traces(small_runs()[0].folder).items()))
        with opened(RENDERERS["html"](small_board())) as page:
            choose(page, FIXED, FAST)
            page.select_option("#traced", label=f"{doc_id} ({FIXED} only)")
            assert page.locator("#canvases").inner_text().count("No trace of this item.") == 1
            for _ in range(10):
                page.click("#on")
            step = told.steps[9]
            outlined = page.eval_on_selector_all(".canvas .active", "c => c.map(n => +n.dataset.column)")
            assert outlined == list(range(*step.block))
            new = page.eval_on_selector_all(".canvas .new", "c => c.map(n => +n.dataset.column)")
            assert new == step.columns
            cell = page.locator(f".canvas .cell[data-column='{step.columns[0]}']")
            assert f"step 10, confidence {step.confidences[0]:.2f}" in cell.get_attribute("title")
            when = page.eval_on_selector_all(".canvas .filled", "c => c.map(n => +n.style.getPropertyValue('--when'))")
            assert len(set(when)) > 3 and max(when) == pytest.approx(9 / (len(told.steps) - 1))
            colours = page.eval_on_selector_all(
                ".canvas .filled", "c => c.map(n => getComputedStyle(n).backgroundColor)"
            )
            assert len(set(colours)) > 5

    def test_play(self) -> None:
        """Play goes on by itself to the end and stops there, pause halts it, and the arrows of the slider step."""
        with opened(RENDERERS["html"](small_board())) as page:
            page.select_option("#speed", "40")
            page.click("#play")
            assert page.text_content("#play") == "Pause"
            wait_until(lambda: int(page.input_value("#step")) >= 3)
            page.click("#play")
            at = page.input_value("#step")
            page.wait_for_timeout(150)
            assert page.input_value("#step") == at and page.text_content("#play") == "Play"
            page.focus("#step")
            page.keyboard.press("ArrowRight")
            assert page.text_content("#at").startswith(f"{int(at) + 1} / ")
            page.keyboard.press("ArrowLeft")
            assert page.input_value("#step") == at
            assert page.get_attribute("#step", "aria-valuetext").startswith(f"step {at} of ")
            page.click("#play")
            wait_until(lambda: page.text_content("#play") == "Play")
            assert page.input_value("#step") == page.get_attribute("#step", "max")
            for button, wanted in (("first", "0"), ("last", page.get_attribute("#step", "max"))):
                page.click(f"#{button}")
                assert page.input_value("#step") == wanted

    def test_without_traces(self, board: Board) -> None:
        """Without traces the page says so, with the command that makes them; else it says who has some."""
        with opened(RENDERERS["html"](board)) as page:
            page.select_option("#section", "1")
            page.wait_for_selector(LOADED.format(1))
            told = page.inner_text("#untraced")
            assert "No traces here" in told and f"l2pd-bench run --strategy {FIXED} --trace" in told
            assert page.is_hidden("#player")
        with opened(RENDERERS["html"](small_board())) as page:
            choose(page, ROUGH, ORACLE)
            told = page.inner_text("#untraced")
            assert FIXED in told and FAST in told and "--trace" not in told

    def test_replay_of_an_item(self) -> None:
        """The answers of a traced item lead to its replay; those of another one do not."""
        traced = next(iter(read_traces(small_runs()[0].folder)))
        with opened(RENDERERS["html"](small_board())) as page:
            choose(page, FIXED, FAST)
            page.fill("#find", traced)
            page.locator("#items tbody button").click()
            page.click("#answers >> text=Replay")
            assert traced in page.locator("#traced option:checked").text_content()
            assert page.evaluate("document.activeElement.id") == "play"
            page.fill("#find", "mini-math/100")
            page.locator("#items tbody button").click()
            assert page.locator("#answers >> text=Replay").count() == 0
