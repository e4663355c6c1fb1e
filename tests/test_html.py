"""What the HTML report holds, and what it must not: looked at without a browser."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from page_factory import add_traces, spoken, trace, unpacked, words
from record_factory import FAST, FIXED, manifest, record, sample

from l2pd_bench.errors import RecordError
from l2pd_bench.records import Run
from l2pd_bench.report import RENDERERS, Board, html, make_board
from l2pd_bench.report.columns import COLUMNS, best, name, shown


class TestBoardData:
    def test_cells(self, board: Board) -> None:
        """Every cell has the text, the detail and the mark that the columns give it, every row its name."""
        data = unpacked(RENDERERS["html"](board))["board"]

        assert len(data["sections"]) == len(board.sections)
        for told, section in zip(data["sections"], board.sections, strict=True):
            columns = shown(section)
            assert [c["title"] for c in told["columns"]] == [c.title for c in columns]
            assert (told["title"], tuple(told["remarks"])) == (section.title, section.remarks)
            for i, (line, row) in enumerate(zip(told["rows"], section.rows, strict=True)):
                assert (line["name"], line["folder"]) == (name(row), str(row.run.folder))
                for cell, column in zip(line["cells"], columns, strict=True):
                    assert cell[:2] == [column.text(row), column.detail(row)]
                    assert cell[3] == (i in best(section, column))

    def test_numbers(self, board: Board) -> None:
        """What is sorted and drawn by is the number that csv has, unrounded."""
        data = unpacked(RENDERERS["html"](board))["board"]
        table = csv.DictReader(io.StringIO(RENDERERS["csv"](board)))
        places = {
            "TPS": "tps",
            "TPF": "tpf",
            "acc. %": "accuracy_percent",
            "speedup": "speedup",
            "p50 s": "latency_p50_s",
        }
        checked = 0

        for flat, (section, line) in zip(table, ((s, r) for s in data["sections"] for r in s["rows"]), strict=True):
            assert str(line["tps"][0]) == flat["tps"]
            assert list(map(str, line["accuracy"][1])) == [flat["accuracy_low_percent"], flat["accuracy_high_percent"]]
            for column, cell in zip(section["columns"], line["cells"], strict=True):
                if key := places.get(column["title"]):
                    assert ("" if cell[2] is None else str(cell[2])) == flat[key]
                    checked += 1
        assert checked == 7 * len(places)

    def test_numbers_of_texts(self, board: Board) -> None:
        """A column without a value is sorted by the number its text begins with, and 'base' is none."""
        (section,) = (s for s in unpacked(RENDERERS["html"](board))["board"]["sections"] if "cache dual" in s["title"])
        titles = [c["title"] for c in section["columns"]]
        cells = {r["spec"]: dict(zip(titles, r["cells"], strict=True)) for r in section["rows"]}

        assert cells[FIXED]["n"][2] == 40
        assert cells[FIXED]["delta"][0] == "base" and cells[FIXED]["delta"][2] is None
        assert cells[FAST]["delta"][2] == float(cells[FAST]["delta"][0])
        assert not dict(zip(titles, section["columns"], strict=True))["verdict"]["numeric"]

    def test_legend_setting_origin(self, board: Board) -> None:
        """The page explains every column, and tells setting, machine, commit and command of every row."""
        data = unpacked(RENDERERS["html"](board))["board"]

        assert {(c.title, c.legend) for c in COLUMNS} <= set(map(tuple, data["legend"]))
        for told, section in zip(data["sections"], board.sections, strict=True):
            assert {key for key, _ in told["setting"]} == set(section.protocol)
            assert sorted(s for o in told["origins"] for s in o["specs"]) == sorted(r.spec for r in section.rows)
            for origin in told["origins"]:
                facts = dict(origin["facts"])
                assert facts["command"].startswith("l2pd-bench run")
                assert (facts["commit"], facts["packages"]) == ("not known", "torch 2.13.0")


class TestSamples:
    @pytest.fixture
    def runs(self, tmp_path: Path) -> list[Run]:
        """Two runs, the second without the first's last item and with an error, an untimed sample and item 10."""
        first = [spoken(i, "a") for i in (0, 1, 2, 10)]
        second = [
            spoken(0, "b"),
            replace(spoken(1, "b"), status="error", error="out of luck"),
            replace(spoken(2, "b"), timed=False),
        ]
        made = [
            record(tmp_path, manifest(FIXED, planned=4), first),
            record(tmp_path, manifest(FAST, planned=3), second),
        ]
        return [
            replace(
                run, samples=tuple(replace(s, doc_id=f"item/{s.doc_id[-3:].lstrip('0') or '0'}") for s in run.samples)
            )
            for run in made
        ]

    def test_samples(self, runs: list[Run]) -> None:
        """Every sample's answer, verdict and numbers are in the page, item by item in their order."""
        board = make_board(runs)
        data = unpacked(RENDERERS["html"](board))["samples-0"]
        rows = {row.spec: told for row, told in zip(board.sections[0].rows, data["rows"], strict=True)}

        assert data["items"] == ["item/0", "item/1", "item/2", "item/10"]
        for run in runs:
            told, samples = rows[run.manifest.strategy.spec], {s.doc_id: s for s in run.samples}
            for i, item in enumerate(data["items"]):
                s = samples.get(item)
                if s is None:
                    assert (told["state"][i], told["text"][i], told["net"][i], told["nfe"][i]) == ("-", -1, None, None)
                    continue
                assert data["texts"][told["text"][i]] == s.text
                assert data["texts"][told["answer"][i]] == s.answer
                assert (told["net"][i], told["nfe"][i]) == (s.tokens.net, s.nfe.full + s.nfe.window)
                assert told["seconds"][i] == (round(s.seconds.decode, 6) if s.timed else None)
                assert told["state"][i] == ("e" if s.status == "error" else "r" if s.correct else "w")
        assert [data["texts"][n] for n in rows[FAST]["errors"].values()] == ["out of luck"]

    def test_each_text_once(self, runs: list[Run]) -> None:
        """Equal texts are held once, so strategies with the same answers cost nearly nothing."""
        texts = unpacked(RENDERERS["html"](make_board(runs)))["samples-0"]["texts"]
        wanted = {t for run in runs for s in run.samples for t in (s.text, s.answer, s.error or "")}

        assert len(texts) == len(set(texts)) and set(texts) == wanted

    def test_ungraded(self, tmp_path: Path) -> None:
        """Where nobody graded, no sample is called right or wrong."""
        run = record(tmp_path, manifest(planned=2, grading="none"), [sample(0), sample(1)])

        assert unpacked(RENDERERS["html"](make_board([run])))["samples-0"]["rows"][0]["state"] == "uu"

    def test_cut(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the answers are too many, only their beginnings stay, with their lengths, and the difference behind."""
        runs = [
            record(
                tmp_path,
                manifest(spec, planned=40),
                [replace(sample(i), text=f"{words(i, 900)} {words((i, spec), 300)}") for i in range(40)],
            )
            for spec in (FIXED, FAST)
        ]
        monkeypatch.setattr(html, "ANSWERS_BYTES", 12_000)
        page = RENDERERS["html"](make_board(runs))
        data = unpacked(page)
        cap = data["board"]["cap"]
        samples = data["samples-0"]

        assert cap in html.CAPS and 0 < cap < 900
        assert len(re.findall(r'id="data-samples-0">([^<]*)', page)[0]) <= 12_000
        ours, theirs = (row["text"] for row in samples["rows"])
        for run, told in (
            (make_board(runs).sections[0].rows[i].run, row["text"]) for i, row in enumerate(samples["rows"])
        ):
            for s, number in zip(run.samples, told, strict=True):
                assert samples["texts"][number] == [s.text[:cap], len(s.text)]
        assert all(a != b for a, b in zip(ours, theirs, strict=True))


class TestTraces:
    def test_traces(self, tmp_path: Path) -> None:
        """Every step of a trace is in the page, with its tokens' texts, and what no run traced is not."""
        samples = [sample(i) for i in range(3)]
        traced, bare = (record(tmp_path, manifest(spec, planned=3), samples) for spec in (FIXED, FAST))
        told = trace(samples[1].doc_id, "x", cut=18)
        add_traces(traced, [told])
        board = make_board([traced, bare])
        data = unpacked(RENDERERS["html"](board))
        held = data["traces-0"]
        place = [row.spec for row in board.sections[0].rows].index(FIXED)
        found = held["rows"][place][0]

        assert held["items"] == [told.doc_id]
        assert held["rows"][1 - place] == [None]
        assert held["texts"][found["prompt"]] == told.prompt
        assert found["length"] == told.gen_length
        for step, (start, stop, end, columns, texts, sure, remasked) in zip(told.steps, found["steps"], strict=True):
            assert ((start, stop), end, columns, remasked) == (step.block, step.end, step.columns, step.remasked)
            assert [held["texts"][n] for n in texts] == [told.vocabulary[t] for t in step.tokens]
            assert sure == pytest.approx(step.confidences, abs=0.0005)
        assert data["board"]["sections"][0]["traced"] == [1, 1]

    def test_most_traced_items(self, tmp_path: Path) -> None:
        """Of many traced items the page holds those that most strategies traced, and says of how many."""
        most = html.TRACED_ITEMS[0]
        samples = [sample(i) for i in range(most + 5)]
        runs = [record(tmp_path, manifest(spec, planned=most + 5), samples) for spec in (FIXED, FAST)]
        add_traces(runs[0], [trace(s.doc_id, 0) for s in samples])
        add_traces(runs[1], [trace(s.doc_id, 1) for s in samples[-3:]])
        data = unpacked(RENDERERS["html"](make_board(runs)))
        ids = [s.doc_id for s in samples]

        assert data["traces-0"]["items"] == [*ids[-3:], *ids[: most - 3]]
        assert data["board"]["sections"][0]["traced"] == [most, most + 5]

    def test_broken_trace(self, tmp_path: Path) -> None:
        """A trace file that cannot be read is refused, not left out."""
        run = record(tmp_path, manifest(planned=1), [sample(0)])
        (run.folder / "trace.jsonl").write_text("{}\n")

        with pytest.raises(RecordError, match="trace"):
            RENDERERS["html"](make_board([run]))
