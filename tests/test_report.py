"""The board: every column against a few lines of its own; sections and best values."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import FAST, FIXED, ROUGH, manifest, one_section, record, rendered, rows, sample

from l2pd_bench.records import load_runs
from l2pd_bench.report import RENDERERS, Board, make_board
from l2pd_bench.report.board import Row
from l2pd_bench.report.columns import COLUMNS, best


class TestColumns:
    def test_from_the_files(self, board: Board) -> None:
        """Every column of every row equals what a few lines of plain Python make of samples.jsonl."""
        checked = 0
        for section in board.sections:
            lines = {
                row.spec: [json.loads(line) for line in (row.run.folder / "samples.jsonl").read_text().splitlines()]
                for row in section.rows
            }
            reference = [
                json.loads(line)
                for other in board.sections
                for row in other.rows
                if (other.task, other.protocol["cache"], row.spec) == (section.task, "none", FIXED)
                for line in (row.run.folder / "samples.jsonl").read_text().splitlines()
            ]
            for spec, row in rows(section).items():
                self.check(row, lines[spec], lines.get(FIXED), reference)
                checked += 1

        assert checked == 7

    @staticmethod
    def check(row: Row, mine: list[dict[str, Any]], base: list[dict[str, Any]] | None, reference: list[Any]) -> None:
        """One row; the factory writes samples in the order of their ids, so lists pair by place."""

        def total(samples: Sequence[dict[str, Any]], *path: str) -> float:
            return float(sum(s[path[0]][path[1]] if len(path) > 1 else s[path[0]] for s in samples))

        count, seconds = len(mine), total(mine, "seconds", "decode")
        forwards = [sum(s["nfe"].values()) for s in mine]
        latency = sorted(s["seconds"]["latency"] for s in mine)
        approx = pytest.approx
        assert row.accuracy == approx(100 * total(mine, "score") / count)
        assert row.tps == approx(total(mine, "tokens", "net") / seconds)
        assert row.tpf == approx(total(mine, "tokens", "net") / sum(forwards))
        assert row.nfe_full == approx(total(mine, "nfe", "full") / count)
        assert row.nfe_window == approx(total(mine, "nfe", "window") / count)
        assert row.nfe_auxiliary == 0
        assert row.latency_p50_s == approx(statistics.median(latency))
        assert row.latency_p90_s == approx(statistics.quantiles(latency, n=10, method="inclusive")[8])
        assert row.overhead_share == approx((seconds - total(mine, "seconds", "model")) / seconds)
        assert row.mean_answer_tokens == approx(total(mine, "tokens", "answer") / count)
        assert row.forced_per_sample == approx(total(mine, "forced_commits") / count)
        p, z2 = total(mine, "correct") / count, 1.959964**2
        spread = math.sqrt(z2) * math.sqrt(p * (1 - p) / count + z2 / 4 / count**2)
        middle = p + z2 / 2 / count
        assert row.accuracy_interval == approx(
            [100 * (middle - spread) / (1 + z2 / count), 100 * (middle + spread) / (1 + z2 / count)], abs=1e-4
        )
        if not reference:
            assert row.reference_speedup is None
        else:
            assert row.reference_speedup is not None
            assert row.reference_speedup.value == approx(total(reference, "seconds", "decode") / seconds)
        if base is None:
            assert (row.delta, row.speedup, row.agreement_share) == (None, None, None)
            return
        assert row.delta is not None
        assert row.speedup is not None
        assert row.delta.points == approx(100 * (total(mine, "score") - total(base, "score")) / count, abs=1e-9)
        assert row.speedup.value == approx(total(base, "seconds", "decode") / seconds)
        assert row.agreement_share == approx(
            sum(a["text"] == b["text"] for a, b in zip(mine, base, strict=True)) / count
        )
        if mine == base:
            assert (row.delta.p, row.speedup.interval, row.is_baseline) == (None, None, True)
            return
        won = sum(a["correct"] and not b["correct"] for a, b in zip(mine, base, strict=True))
        lost = sum(b["correct"] and not a["correct"] for a, b in zip(mine, base, strict=True))
        tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
        assert row.delta.p == approx(min(1.0, 2 * tail))
        rng, drawn = random.Random(1), []
        times = [(b["seconds"]["decode"], a["seconds"]["decode"]) for a, b in zip(mine, base, strict=True)]
        for _ in range(1000):
            chosen = rng.choices(times, k=count)
            drawn.append(sum(b for b, _ in chosen) / sum(a for _, a in chosen))
        assert row.speedup.interval == approx([sorted(drawn)[25], sorted(drawn)[974]], rel=2e-3)

    def test_baseline(self, tmp_path: Path) -> None:
        """Only fixed-step with one token per step, most confident first, is a baseline."""
        for spec in (FIXED, "fixed-step:k=2", "fixed-step:order=margin"):
            record(tmp_path, manifest(spec), [sample(i) for i in range(5)])
        (section,) = make_board(load_runs(tmp_path)).sections

        assert [row.spec for row in section.rows if row.is_baseline] == [FIXED]
        assert {row.baseline.manifest.strategy.spec for row in section.rows if row.baseline} == {FIXED}

    def test_unpaired_samples(self, tmp_path: Path) -> None:
        """Speed is compared over samples timed in the same process only, accuracy over all common ones."""
        base = record(tmp_path, manifest(FIXED, planned=8), [sample(i) for i in range(8)], session="a")
        record(tmp_path, manifest(FAST, planned=8), [sample(i, speed=2.0) for i in range(4)], session="b")
        fast = record(tmp_path, manifest(FAST, planned=8), [sample(i, speed=4.0) for i in range(4, 8)], session="a")
        row = rows(one_section(base, fast))[FAST]

        assert row.speedup is not None
        assert row.delta is not None
        assert (row.speedup.pairs, row.delta.pairs) == (4, 8)
        assert row.speedup.value == pytest.approx(
            sum(s.seconds.decode for s in base.samples[4:]) / sum(s.seconds.decode for s in fast.samples[4:])
        )
        assert "speedup over 4 of 8 samples" in " ".join(one_section(base, fast).remarks)

    def test_batches_are_resampled(self, tmp_path: Path) -> None:
        """Samples that were decoded together are drawn together: the interval is that of the batches."""
        runs = []
        for spec, speed in ((FIXED, 1.0), (FAST, 4.0)):
            samples = []
            for batch in range(6):
                latency = random.Random(f"{spec} {batch}").uniform(1, 2) / speed
                share = replace(sample(0).seconds, decode=latency / 8, latency=latency)
                samples += [sample(8 * batch + i, seconds=share, elapsed_s=float(batch)) for i in range(8)]
            runs.append(record(tmp_path, manifest(spec, planned=48, batch_size=8), samples))
        together = rows(one_section(*runs))[FAST].speedup
        times = [[s.seconds.latency for s in run.samples[::8]] for run in runs]
        rng, drawn = random.Random(1), []
        for _ in range(4000):
            chosen = rng.choices(range(6), k=6)
            drawn.append(sum(times[0][i] for i in chosen) / sum(times[1][i] for i in chosen))

        assert together is not None
        assert together.pairs == 48
        assert together.interval == pytest.approx([sorted(drawn)[100], sorted(drawn)[3899]], rel=0.01)

    def test_errors_and_untimed(self, tmp_path: Path) -> None:
        """An error is a wrong answer and no more; a sample without valid times counts for all but seconds."""
        failed = [sample(i, speed=2.0, accuracy=1.0, status="error", error="oops\nat", text="") for i in (1, 2)]
        samples = [sample(i, speed=2.0, accuracy=1.0) for i in range(3, 9)]
        slow = replace(samples[0].seconds, decode=999.0, latency=999.0)
        samples[0] = replace(samples[0], timed=False, seconds=slow)
        base = record(tmp_path, manifest(FIXED, planned=8), [sample(i, accuracy=1.0) for i in range(1, 9)])
        run = record(tmp_path, manifest(FAST, planned=8), [*failed, *samples])
        section = one_section(base, run)
        row = rows(section)[FAST]

        assert (row.errors, row.untimed) == (2, 1)
        assert row.accuracy == pytest.approx(75.0)
        assert row.delta is not None
        assert row.delta.points == pytest.approx(-25.0)
        assert row.delta.p == pytest.approx(0.5)
        assert row.agreement_share == 1.0
        assert row.speedup is not None
        assert row.speedup.pairs == 5
        assert row.latency_p90_s is not None
        assert row.latency_p90_s < 1
        assert row.nfe_full == 4.0
        assert row.mean_answer_tokens == pytest.approx(statistics.mean(s.tokens.answer for s in samples))
        assert row.tpf == pytest.approx(sum(s.tokens.net for s in samples) / sum(s.nfe.total for s in samples))
        text = " ".join(section.remarks)
        assert "2 of 8 samples ended in an error and count as wrong (first: mini-math/001: oops)" in text
        assert "1 of 8 samples have no valid times" in text

    @pytest.mark.parametrize("count", [0, 1])
    def test_few_samples(self, tmp_path: Path, count: int) -> None:
        """Runs of no sample, or of one, have empty cells, never nan or an error, in every renderer."""
        for spec in (FIXED, FAST):
            record(tmp_path, manifest(spec), [sample(i) for i in range(count)], finished=False)
        board = make_board(load_runs(tmp_path))
        row = rows(board.sections[0])[FAST]

        assert row.speedup is None if count == 0 else (row.speedup and row.speedup.interval is None)
        for text in (rendered(board, 80), *(render(board) for render in RENDERERS.values())):
            assert not re.search(r"\bnan\b|\binf\b", text.lower())
        assert all(row.tps is None for row in board.sections[0].rows) == (count == 0)

    def test_order_does_not_matter(self, results: Path) -> None:
        """The same records give the same board to the last digit, and to the last printed one in any order."""
        runs = load_runs(results)
        shuffled = [replace(r, samples=tuple(random.Random(3).sample(r.samples, len(r.samples)))) for r in runs[::-1]]

        boards = [make_board(each) for each in (runs, runs, shuffled)]
        assert RENDERERS["csv"](boards[0]) == RENDERERS["csv"](boards[1])
        assert rendered(boards[0], 160) == rendered(boards[2], 160)


class TestSections:
    def test_order(self, board: Board) -> None:
        """Sections of a task stand together, the plainest setting first; rows are ordered by tokens per second."""
        assert [(s.task, s.protocol["cache"]) for s in board.sections] == [
            ("mini-code", "none"),
            ("mini-math", "none"),
            ("mini-math", "dual"),
        ]
        for section in board.sections:
            speeds = [row.tps or 0.0 for row in section.rows]
            assert speeds == sorted(speeds, reverse=True)
            assert len({row.run.manifest.protocol_hash for row in section.rows}) == 1

    def test_title(self, tmp_path: Path) -> None:
        """A title tells the setting, and whatever else tells it from the task's other sections."""
        runs = [record(tmp_path, manifest(FIXED, seed=seed), [sample(0)]) for seed in (0, 1)]
        titles = [s.title for s in make_board(runs).sections]

        assert one_section(runs[0]).title == (
            "mini-math: model mini, cache none, EoT decode, gen 128 / block 32, batch 1 (latency mode), "
            "temperature 0, cpu, "
            f"protocol {runs[0].manifest.protocol_hash[:8]}"
        )
        assert {re.findall(r"seed \d", title)[0] for title in titles} == {"seed 0", "seed 1"}

    def test_best(self, board: Board) -> None:
        """The best of a column is marked within its section, and only where there is a choice."""
        columns = {column.title: column for column in COLUMNS}
        alone, none, dual = board.sections

        assert [best(alone, column) for column in COLUMNS] == [set()] * len(COLUMNS)
        for section in (none, dual):
            specs = [row.spec for row in section.rows]
            for title, winner in (
                ("TPS", ROUGH),
                ("speedup", ROUGH),
                ("NFE", ROUGH),
                ("p50 s", ROUGH),
                ("agree", FAST),
            ):
                assert {specs[i] for i in best(section, columns[title])} == {winner}, title
            accuracy = [row.accuracy or 0.0 for row in section.rows]
            assert best(section, columns["acc. %"]) == {i for i, a in enumerate(accuracy) if a == max(accuracy)}
            assert best(section, columns["overhead"]) == set()  # 10.0 in every row
            assert best(section, columns["length"]) == best(section, columns["n"]) == set()

    def test_ties_and_unfinished(self, tmp_path: Path) -> None:
        """Equal values are marked together; an unfinished run cannot be the best."""
        same = [sample(i, speed=2.0, accuracy=1.0) for i in range(10)]
        runs = [record(tmp_path, manifest(spec), same) for spec in ("a", "b")]
        runs.append(record(tmp_path, manifest("c"), [sample(i, accuracy=0.0) for i in range(10)]))
        runs.append(
            record(tmp_path, manifest("d"), [sample(i, speed=9.0, accuracy=1.0) for i in range(3)], finished=False)
        )
        section = one_section(*runs)
        winners = {c.title: {section.rows[i].spec for i in best(section, c)} for c in COLUMNS}

        assert section.rows[-1].spec == "d"
        assert winners["TPS"] == winners["acc. %"] == winners["p50 s"] == {"a", "b"}
