"""What the writer of a run knows of the samples on disk without reading them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import WARMUP, load_run, manifest, record, sample, stored

from l2pd_bench import recorded
from l2pd_bench.errors import RecordError
from l2pd_bench.records import load_runs, read_folder
from l2pd_bench.seal import seal_sample
from l2pd_bench.writer import open_run

RESULTS = Path(__file__).parent.parent / "results"


class TestHeld:
    ODD = 'a "quoted", "status": "error", "correct": true \\ \u2028 \x00'

    def test_samples(self, tmp_path: Path) -> None:
        """A writer hands out every sample as it was written, also those of a former process, in the file's order."""
        samples = [sample(0), sample(1, status="oom", error="o"), sample(2, doc_id=self.ODD, text=self.ODD)]
        record(tmp_path, manifest(), samples, finished=False)
        with open_run(tmp_path, manifest()) as writer:
            again = [sample(1, writer.start_segment("s1", WARMUP)), sample(3, 1)]
            for one in again:
                writer.append([one])

            assert writer.done == {"mini-math/000", self.ODD, "mini-math/001", "mini-math/003"}
            assert [replace(s, seal="") for s in writer.samples.values()] == [samples[0], samples[2], *again]
            assert list(writer.samples) == [s.doc_id for s in load_run(writer.folder).samples]

    def test_is_not_taken_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is known of a line without taking it apart is what its sample says."""
        odd = [sample(i, doc_id=f"{i} {self.ODD}", answer=self.ODD, flops=-i, elapsed_s=10.0**-i) for i in range(9)]
        record(tmp_path, manifest(), odd, finished=False)
        monkeypatch.setattr(recorded, "parse_sample", None)
        for run in [*load_runs(tmp_path), *load_runs(RESULTS / "mini-list")[:5]]:
            held = read_folder(run.folder, recorded.read_entry)
            assert held is not None and held.seal == run.samples[-1].seal
            at = 0
            lines = (run.folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
            for s, entry, line in zip(run.samples, held.lines.values(), lines, strict=True):
                counts = (s.correct, s.tokens.net, s.nfe.full + s.nfe.window, s.seconds.decode)
                assert entry == (s.doc_id, s.status, s.segment, *counts, at, at + len(line))
                at += len(line)

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_edited_meanwhile(self, tmp_path: Path, number: int) -> None:
        """A sample that somebody edits or moves while the run is open is refused when it is asked for."""
        _, path = stored(tmp_path, 4)
        with open_run(tmp_path, manifest()) as writer:
            lines = path.read_text().splitlines(keepends=True)
            doc_id = f"mini-math/{number:03d}"
            for edited in (
                [*lines[:number], lines[number].replace('"net": 2', '"net": 9'), *lines[number + 1 :]],
                [*lines[2:], *lines[:2]],
            ):
                path.write_text("".join(edited))
                with pytest.raises(RecordError, match=rf"sample '{doc_id}': it is not where it was, or its seal"):
                    writer.samples[doc_id]
            path.write_text("".join(lines))
            assert writer.samples[doc_id].doc_id == doc_id

    def test_replaced_meanwhile(self, tmp_path: Path) -> None:
        """A whole file of the same run put in the place of the one that was opened does not pass for it."""
        _, path = stored(tmp_path / "a", 3)
        other = record(tmp_path / "b", manifest(), [sample(i) for i in (0, 2, 1)]).folder / "samples.jsonl"
        with open_run(tmp_path / "a", manifest()) as writer:
            path.write_bytes(other.read_bytes())
            with pytest.raises(RecordError, match="'mini-math/001': it is not where it was"):
                writer.samples["mini-math/001"]

    def test_totals_of_a_continued_run(self, tmp_path: Path) -> None:
        """A run that was continued stores the sums over all its samples, those of the former process included."""
        record(tmp_path, manifest(), [sample(i) for i in range(3)], finished=False)
        with open_run(tmp_path, manifest()) as writer:
            writer.append([sample(i, writer.start_segment("s1", WARMUP)) for i in range(3, 4)])
            writer.finish("finished")
            run = load_run(writer.folder)

        assert run.manifest.totals is not None
        assert run.manifest.totals.net_tokens == 20 + 21 + 22 + 23
        assert run.manifest.totals.decode_seconds == pytest.approx(sum(s.seconds.decode for s in run.samples))

    @pytest.mark.parametrize(
        ("old", "new", "refused"),
        [
            ('"forced_commits": 1', '"forced_commits":1', None),
            ('"status": "ok"', '"status": "fine"', "'status': got 'fine'"),
            ('"correct": true', '"correct": 1', "'correct': got 1"),
            ('"segment": 0', '"segment": 1', "'segment': got 1, expected one of 1"),
            ('"schema_version": 4', '"schema_version": 5', "'schema_version': got 5"),
        ],
    )
    def test_sealed_and_odd(self, tmp_path: Path, old: str, new: str, refused: str | None) -> None:
        """A line with a seal that fits, but not as this program writes it, is taken apart, and read or refused."""
        run = record(tmp_path, manifest(), [sample(0, correct=True)], finished=False)
        path = run.folder / "samples.jsonl"
        body = path.read_text().partition(', "seal": ')[0]
        assert old in body
        body = body.replace(old, new)
        seal = hashlib.sha256((run.manifest.run_id + body).encode()).hexdigest()[:16]
        path.write_text(f'{body}, "seal": "{seal}"}}\n')
        if refused:
            with pytest.raises(RecordError, match=refused):
                open_run(tmp_path, manifest())
        else:
            with open_run(tmp_path, manifest()) as writer:
                assert writer.done == {"mini-math/000"}
                assert writer.samples["mini-math/000"].seal == seal

    @pytest.mark.parametrize("batch", [1, 2, 5, 100])
    def test_many_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
        """Lines taken many at once make what they make one by one, wherever a batch ends, a second try included."""
        odd = [sample(i, doc_id=f"{i} {self.ODD}") for i in range(6)]
        tried = [sample(1, status="error", error="e"), *odd, sample(1)]
        run = record(tmp_path, manifest(), tried, finished=False)
        monkeypatch.setattr("l2pd_bench.records._BATCH", batch)
        one_by_one = read_folder(run.folder, recorded.read_entry)
        assert one_by_one == read_folder(run.folder, recorded.read_entry, recorded.read_entries)
        assert one_by_one is not None and len(one_by_one.lines) == 7

    @pytest.mark.parametrize("line", range(4))
    @pytest.mark.parametrize("what", ["edited", "end edited", "second", "segment", "torn"])
    def test_many_with_one_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int, what: str) -> None:
        """One wrong line among many is refused, or cut off if it is torn, as when each is read alone."""
        doc_ids, segments = [f"i/{i}" for i in range(4)], [0] * 4
        if what == "second":
            doc_ids[line] = "i/0" if line else "i/1"
        if what == "segment":
            segments[line] = 1
        head, seal, lines = manifest(), manifest().run_id, []
        for i in range(4):
            text, seal = seal_sample(sample(i, segments[i], doc_id=doc_ids[i]), seal)
            lines.append(text)
        if what == "edited":
            lines[line] = lines[line].replace(b'"net": 2', b'"net": 9')
        if what == "end edited":
            lines[line] = lines[line].replace(b', "seal"', b', "Seal"')
        if what == "torn":
            lines[line:] = [lines[line][:-1]]
        folder = record(tmp_path, head, [sample(0)], finished=False).folder
        (folder / "samples.jsonl").write_bytes(b"".join(lines))
        monkeypatch.setattr("l2pd_bench.records._BATCH", 2)

        def told(*parse: Any) -> object:
            try:
                return read_folder(folder, *parse)
            except RecordError as refused:
                return str(refused)

        found = told(recorded.read_entry)
        assert found == told(recorded.read_entry, recorded.read_entries)
        if what != "torn":
            at = 2 if (what, line) == ("second", 0) else line + 1  # the second of two is the one that is refused
            assert f"samples.jsonl, line {at}: " in str(found)
        else:
            assert len(found.lines) == line  # type: ignore[attr-defined]
