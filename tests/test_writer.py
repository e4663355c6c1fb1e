"""Writing records: what is stored, continued, set aside and refused."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import WARMUP, content, load_run, manifest, record, sample, stored

from l2pd_bench.errors import RecordError
from l2pd_bench.records import load_runs
from l2pd_bench.schema import Alone, Git
from l2pd_bench.writer import new_session, open_run


class TestRoundTrip:
    def test_all_fields(self, tmp_path: Path) -> None:
        """What is written is read back, in the folder of task, strategy and setting."""
        samples = [sample(0), sample(1, text='line\nbreak \u2028 "quote" \x00', status="error", error="out of memory")]
        what = manifest("threshold:tau=0.9", planned=2)
        run = record(tmp_path, what, samples)

        assert run.folder == tmp_path / "mini-math" / f"threshold-tau0.9--{what.protocol_hash[:8]}"
        assert tuple(replace(s, seal="") for s in run.samples) == tuple(samples)
        assert (run.manifest.strategy, run.manifest.protocol) == (what.strategy, what.protocol)
        assert load_runs(tmp_path) == [run]

    def test_totals(self, tmp_path: Path) -> None:
        """A finished run carries sums over its samples; an interrupted one does not."""
        samples = [sample(i) for i in range(4)]
        totals = record(tmp_path, manifest(), samples).manifest.totals

        assert totals is not None
        assert (totals.samples, totals.correct) == (4, sum(s.correct for s in samples))
        assert totals.net_tokens == 20 + 21 + 22 + 23
        assert totals.nfe == sum(s.nfe.full + s.nfe.window + s.nfe.auxiliary for s in samples)
        assert totals.decode_seconds == pytest.approx(sum(s.seconds.decode for s in samples))
        with open_run(tmp_path, manifest()) as writer:
            writer.finish("interrupted", "Ctrl-C")
            assert load_run(writer.folder).manifest.totals is None

    def test_finished_without_samples(self, tmp_path: Path) -> None:
        """A finished run without a sample is read back as it was written."""
        assert record(tmp_path, manifest(), []).samples == ()

    def test_segments(self, tmp_path: Path) -> None:
        """A segment says which process ran it, on which machine, after which warm-up."""
        session = new_session()
        with open_run(tmp_path, manifest()) as writer:
            assert writer.start_segment(session, WARMUP) == 0
            alone = Alone(samples=2, differing=1)
            assert writer.start_segment(session, replace(WARMUP, rounds=4, is_stable=False), alone) == 1
            writer.note_foreign(["train.py (7)"])
            writer.note_foreign(["train.py (7)", "serve (8)"])
            writer.note_foreign(["other (9)"], 0)
            segments = load_run(writer.folder).manifest.segments

        assert [s.index for s in segments] == [0, 1]
        assert {(s.session, s.pid, s.hostname) for s in segments} == {(session, os.getpid(), socket.gethostname())}
        assert [(s.warmup.rounds, s.warmup.is_stable, s.alone) for s in segments] == [
            (2, True, None),
            (4, False, alone),
        ]
        assert [s.foreign for s in segments] == [["other (9)"], ["train.py (7)", "serve (8)"]]

    def test_errors(self, tmp_path: Path) -> None:
        """What went wrong in a segment is kept there, once each and in order, while the run goes on."""
        with open_run(tmp_path, manifest()) as writer:
            for number in range(3):
                writer.start_segment(f"s{number}", WARMUP)
            for text in ("out of memory at 16", "out of memory at 16", "out of memory at 1"):
                writer.note_error(0, text)
            going_on = load_run(writer.folder).manifest
            writer.finish("failed", "worker died", 1)
            failed = load_run(writer.folder).manifest
            writer.finish("finished")
            finished = load_run(writer.folder).manifest

        assert (going_on.status, going_on.error) == ("running", None)
        assert [s.error for s in going_on.segments] == ["out of memory at 16\nout of memory at 1", None, None]
        assert (failed.status, failed.error) == ("failed", "worker died")
        assert [s.error for s in finished.segments] == [going_on.segments[0].error, "worker died", None]
        assert (finished.status, finished.error) == ("finished", None)

    def test_foreign_segment(self, tmp_path: Path) -> None:
        """Nothing is noted of a segment that another process began."""
        record(tmp_path, manifest(), [sample(0)], finished=False)
        with open_run(tmp_path, manifest()) as writer:
            before = content(tmp_path)
            for note in (
                lambda: writer.note_error(0, "oops"),
                lambda: writer.note_foreign(["train.py (7)"]),
                lambda: writer.finish("failed", "oops", 0),
            ):
                with pytest.raises(ValueError, match=r"expected one of \[\], which this writer has started"):
                    note()

        assert content(tmp_path) == before


class TestContinue:
    def test_done(self, tmp_path: Path) -> None:
        """Finished samples are kept; one that ended in an error may be tried again, and the last try counts."""
        record(tmp_path, manifest(), [sample(0), sample(1, status="error", error="oops")], finished=False)
        with open_run(tmp_path, manifest()) as writer:
            assert writer.done == {"mini-math/000"}
            assert writer.recovered is None
            writer.append([sample(1, writer.start_segment("s1", WARMUP))])
            assert writer.done == {"mini-math/000", "mini-math/001"}

        (run,) = load_runs(tmp_path)
        assert [(s.doc_id, s.status, s.segment) for s in run.samples] == [
            ("mini-math/000", "ok", 0),
            ("mini-math/001", "ok", 1),
        ]

    def test_finished_run_is_left_alone(self, tmp_path: Path) -> None:
        """Opening a finished run changes nothing; a new segment makes it running again."""
        stored(tmp_path)
        before = content(tmp_path)
        with open_run(tmp_path, manifest(planned=3)) as writer:
            assert len(writer.done) == 3
            assert content(tmp_path) == before
            writer.start_segment("s1", WARMUP)
            again = load_run(writer.folder).manifest

        assert (again.status, again.finished, again.totals) == ("running", None, None)

    def test_planned(self, tmp_path: Path) -> None:
        """The latest command says how many samples are wanted, never fewer than there are."""
        stored(tmp_path, 3)
        for limit, planned in ((2, 3), (8, 8)):
            with open_run(tmp_path, manifest(planned=limit)) as writer:
                writer.start_segment("s1", WARMUP)
                assert writer.manifest.planned == planned

    def test_other_environment(self, tmp_path: Path) -> None:
        """Continuing on another machine or commit is noted, by what has changed; on the same one nothing is."""
        stored(tmp_path)
        other = replace(manifest(), environment={"cores": 64}, git=Git(commit="abc", dirty=False))
        for what in (manifest(), other, other):
            with open_run(tmp_path, what) as writer:
                writer.start_segment("s1", WARMUP)
                notes = writer.manifest.notes

            assert notes == [] or what is other
        assert notes == ["continued in another environment than it began in: cores, git commit, packages"]

    @pytest.mark.parametrize("changed", ["strategy", "strategy code", "protocol"])
    def test_other_run(self, tmp_path: Path, changed: str) -> None:
        """A folder of another run is refused, with what differs and the way out, and not touched."""
        first = manifest("threshold:tau=0.9")
        record(tmp_path, first, [sample(0)])
        before = content(tmp_path)
        second = {
            "strategy": replace(first, run_id="other", strategy=replace(first.strategy, spec="threshold:tau=.90")),
            "strategy code": manifest("threshold:tau=0.9", code="changed"),
            "protocol": replace(first, run_id="other", protocol_hash=first.protocol_hash[:8] + "0" * 56),
        }[changed]
        with pytest.raises(RecordError, match=rf": {changed} has changed since .* --restart"):
            open_run(tmp_path, second)

        assert content(tmp_path) == before

    def test_restart(self, tmp_path: Path) -> None:
        """A restart sets the old records aside, whatever they are, and the report no longer sees them."""
        _, path = stored(tmp_path)
        path.write_text("broken\n" * 3)
        for _ in range(2):
            with open_run(tmp_path, manifest(), restart=True) as writer:
                assert writer.done == set()
                assert writer.set_aside is not None and writer.set_aside.name.startswith(f"{path.parent.name}.old-")
                assert writer.set_aside.is_dir()
                with pytest.raises(RecordError, match=r"expected to be the only writer"):
                    open_run(tmp_path, manifest(), restart=True)

        assert len(load_runs(tmp_path)) == 1
        assert len(list((tmp_path / "mini-math").iterdir())) == 3

    def test_restart_of_nothing(self, tmp_path: Path) -> None:
        """A restart where nothing is recorded sets nothing aside."""
        with open_run(tmp_path, manifest(), restart=True) as writer:
            assert writer.set_aside is None


class TestAppend:
    @pytest.mark.parametrize("again", [[0], [3, 3]])
    def test_twice(self, tmp_path: Path, again: list[int]) -> None:
        """A sample cannot be recorded twice, and the refusal writes nothing."""
        with open_run(tmp_path, manifest()) as writer:
            segment = writer.start_segment("s0", WARMUP)
            writer.append([sample(0, segment)])
            before = content(tmp_path)
            with pytest.raises(RecordError, match=rf"'mini-math/00{again[0]}' a second time"):
                writer.append([sample(i, segment) for i in (9, *again)])

        assert content(tmp_path) == before

    def test_wrong_segment(self, tmp_path: Path) -> None:
        """A sample must carry a segment that this writer has started; one of a former process is refused."""
        record(tmp_path, manifest(), [sample(0)], finished=False)
        with open_run(tmp_path, manifest()) as writer:
            with pytest.raises(RecordError, match=r"'segment': got 0, expected one of \[\], which this writer"):
                writer.append([sample(1)])
            writer.start_segment("s1", WARMUP)
            for segment in (0, 2):
                with pytest.raises(RecordError, match=rf"'segment': got {segment}, expected one of \[1\]"):
                    writer.append([sample(1, 1), sample(2, segment)])

            assert len(load_run(writer.folder).samples) == 1

    def test_several_segments(self, tmp_path: Path) -> None:
        """Workers of other processes and machines write through one writer, in any order, each under its segment."""
        with open_run(tmp_path, manifest()) as writer:
            for number in range(3):
                writer.start_segment(f"s{number}", WARMUP, pid=100 + number, hostname=f"node{number}")
            writer.append([sample(0, 1), sample(1, 0)])
            writer.append([sample(2, 2), sample(3, 0)])
            run = load_run(writer.folder)

        assert [(s.pid, s.hostname) for s in run.manifest.segments] == [(100, "node0"), (101, "node1"), (102, "node2")]
        assert [run.manifest.segments[s.segment].session for s in run.samples] == ["s1", "s0", "s2", "s0"]
        assert sorted(run.timed) == [
            ("s0", "mini-math/001"),
            ("s0", "mini-math/003"),
            ("s1", "mini-math/000"),
            ("s2", "mini-math/002"),
        ]

    @pytest.mark.parametrize(
        ("field", "value"), [("score", "high"), ("correct", 1), ("prompt_tokens", 1.0), ("answer", None)]
    )
    def test_unreadable_is_not_written(self, tmp_path: Path, field: str, value: Any) -> None:
        """What could not be read back is refused before it is written."""
        with open_run(tmp_path, manifest()) as writer:
            segment = writer.start_segment("s0", WARMUP)
            with pytest.raises(RecordError, match=f"new sample 'mini-math/001': field '{field}'"):
                writer.append([sample(0, segment), sample(1, segment, **{field: value})])

            assert load_run(writer.folder).samples == ()
