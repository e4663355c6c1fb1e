"""Reading records: what is read, and what is refused with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import WARMUP, content, load_run, manifest, record, sample, stored

from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.record_json import encode, parse_manifest
from l2pd_bench.records import load_runs
from l2pd_bench.seal import seal_manifest
from l2pd_bench.writer import open_run


def edit(path: Path, line: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON object on a line of a file (0 is the first), or in the whole of run.json."""
    if path.name == "run.json":
        lines, line = [path.read_text()], 0
    else:
        lines = path.read_text().splitlines(keepends=True)
    value = json.loads(lines[line])
    change(value)
    lines[line] = json.dumps(value) + "\n"
    path.write_text("".join(lines))


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("doc_id", None, "'doc_id': got None, expected a valid string"),
            ("correct", 1, "'correct': got 1, expected a valid boolean"),
            ("prompt_tokens", True, "'prompt_tokens': got True, expected a valid integer"),
            ("score", "1", "'score': got '1', expected a valid number"),
            ("output_ids", [1, "2"], r"'output_ids\[1\]': got '2', expected a valid integer"),
            ("status", "fine", "'status': got 'fine', expected 'ok', 'oom' or 'error'"),
            ("tokens", {"net": 1, "answer": 1}, "'tokens.gross' is missing"),
            ("seconds", 3, "'seconds': got 3, expected an object"),
            ("segment", 1, "'segment': got 1, expected one of 1 in run.json"),
            ("energy", 3, "unknown field 'energy'"),
            ("nfe", {"full": 1, "window": 0, "auxiliary": 0, "more": 1}, "unknown field 'nfe.more'"),
        ],
    )
    def test_field(self, tmp_path: Path, field: str, value: object, message: str) -> None:
        """A wrong field of a sample is named with its file and line."""
        _, path = stored(tmp_path)
        edit(path, 1, lambda line: line.update({field: value}))
        for attempt in (lambda: load_runs(tmp_path), lambda: open_run(tmp_path, manifest())):
            with pytest.raises(RecordError, match=rf"samples\.jsonl, line 2: .*{message}"):
                attempt()

    @pytest.mark.parametrize("field", ["answer", "nfe", "timed"])
    def test_missing(self, tmp_path: Path, field: str) -> None:
        """A missing field of a sample is named with its file and line."""
        _, path = stored(tmp_path)
        edit(path, 2, lambda line: line.pop(field))
        with pytest.raises(RecordError, match=rf"samples\.jsonl, line 3: field '{field}' is missing"):
            load_runs(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.pop("command"), "field 'command' is missing"),
            (lambda m: m.pop("notes"), "field 'notes' is missing"),  # though the writer has a default
            (lambda m: m["protocol"].pop("cache"), "field 'protocol.cache' is missing"),
            (
                lambda m: m["protocol"].update(seed=[1]),
                r"field 'protocol.seed': got \[1\], expected a string, a finite number, true",
            ),
            (
                lambda m: m["protocol"].update(batch_size="1"),
                "'protocol.batch_size': got '1', expected a valid int",
            ),
            (lambda m: m["segments"][0].update(pid="7"), r"field 'segments\[0\].pid': got '7'"),
            (lambda m: m["git"].update(dirty="no"), "field 'git.dirty': got 'no', expected a valid boolean"),
            (lambda m: m.update(planned=None), "field 'planned': got None, expected a valid integer"),
        ],
    )
    def test_manifest(self, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
        """A wrong field of a manifest is named with its file."""
        path, _ = stored(tmp_path)
        edit(path, 0, change)
        with pytest.raises(RecordError, match=rf"run\.json: .*{message}"):
            load_runs(tmp_path)

    @pytest.mark.parametrize(("name", "field"), [("run.json", "temperature"), ("samples.jsonl", "score")])
    def test_overflow(self, tmp_path: Path, name: str, field: str) -> None:
        """A number too large for a float is no finite number."""
        path = stored(tmp_path)[0].parent / name
        path.write_text(re.sub(rf'"{field}": [\d.]+', f'"{field}": 1e999', path.read_text()))
        with pytest.raises(RecordError, match=rf"{name}.*{field}': got inf, expected a .*finite number"):
            load_runs(tmp_path)

    @pytest.mark.parametrize("name", ["run.json", "samples.jsonl"])
    @pytest.mark.parametrize("version", [1, "2", None, True])
    def test_unknown_version(self, tmp_path: Path, name: str, version: object) -> None:
        """An unknown schema version is refused, with the known ones, and nothing is touched, a torn line included."""
        path = stored(tmp_path)[0].parent / name
        edit(path, 1, lambda value: value.update(schema_version=version, another="field"))
        with (path.parent / "samples.jsonl").open("a") as file:
            file.write('{"doc_id": "mini-m')
        before = content(tmp_path)
        for attempt in (lambda: load_runs(tmp_path), lambda: open_run(tmp_path, manifest())):
            with pytest.raises(
                RecordError, match=rf"{name}.* 'schema_version': got .*, expected 4 .*this program knows"
            ):
                attempt()

        assert content(tmp_path) == before

    @pytest.mark.parametrize("line", ["", "{", "NaN", '{"doc_id": NaN}', "\udcff"])
    def test_broken_line(self, tmp_path: Path, line: str) -> None:
        """A broken line that is not the last is refused with file and number, and left as it is."""
        _, path = stored(tmp_path)
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n", errors="surrogateescape")
        before = content(tmp_path)
        for attempt in (lambda: load_runs(tmp_path), lambda: open_run(tmp_path, manifest())):
            with pytest.raises(RecordError, match=r"samples\.jsonl, line 2: got broken JSON"):
                attempt()

        assert content(tmp_path) == before

    def test_broken_before_torn(self, tmp_path: Path) -> None:
        """A broken line with a torn piece behind it is not the last one, hence refused."""
        _, path = stored(tmp_path)
        path.write_bytes(path.read_bytes() + b'{"doc\n{"doc_')
        with pytest.raises(RecordError, match="line 4: got broken JSON"):
            load_runs(tmp_path)

    def test_doubled_line(self, tmp_path: Path) -> None:
        """A line that stands twice in a file is refused: nothing is counted twice."""
        _, path = stored(tmp_path)
        path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[1])
        with pytest.raises(RecordError, match="line 4: its seal does not fit, or a line before it was added"):
            load_runs(tmp_path)

    def test_samples_without_manifest(self, tmp_path: Path) -> None:
        """Samples whose manifest is gone are neither read nor added to."""
        path, _ = stored(tmp_path)
        path.unlink()
        for attempt in (lambda: load_runs(tmp_path), lambda: open_run(tmp_path, manifest())):
            with pytest.raises(RecordError, match=r"run\.json: missing"):
                attempt()


class TestEdited:
    """Records that somebody has touched."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda line: line["seconds"].update(decode=line["seconds"]["decode"] / 10),
            lambda line: line.update(correct=not line["correct"]),
            lambda line: line["nfe"].update(full=1),
            lambda line: line.update(seal="0" * 16),
            lambda line: line.pop("schema_version"),
        ],
    )
    @pytest.mark.parametrize("line", [0, 2])
    def test_sample(self, tmp_path: Path, change: Callable[[dict[str, Any]], object], line: int) -> None:
        """A sample with another speed, verdict, count or seal than was written is refused with its place."""
        _, path = stored(tmp_path)
        edit(path, line, change)
        for attempt in (lambda: load_runs(tmp_path), lambda: open_run(tmp_path, manifest())):
            with pytest.raises(RecordError, match=rf"samples\.jsonl, line {line + 1}: its seal does not fit"):
                attempt()

    @pytest.mark.parametrize(
        "change",
        [
            lambda m: m["protocol"].update(cache="dual"),
            lambda m: m.update(protocol_hash="0" * 64),
            lambda m: m["totals"].update(decode_seconds=0.1),
            lambda m: m["strategy"].update(deployable=False),
            lambda m: m.update(command="l2pd-bench run --strategy magic"),
        ],
    )
    def test_manifest(self, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        """A manifest with another setting, hash, sum or strategy than was written is refused."""
        path, _ = stored(tmp_path)
        edit(path, 0, change)
        with pytest.raises(RecordError, match=r"run\.json: its seal does not fit"):
            load_runs(tmp_path)

    @pytest.mark.parametrize("change", [{"cache": "dual"}, {"seed": 7}])
    def test_resealed_protocol(self, tmp_path: Path, change: dict[str, Any]) -> None:
        """Even with a new seal, a setting that its hash does not belong to is refused."""
        path, _ = stored(tmp_path)
        old = parse_manifest(path.read_bytes(), "")
        path.write_bytes(encode(seal_manifest(replace(old, protocol={**old.protocol, **change}))))
        with pytest.raises(RecordError, match=r"run\.json: field 'protocol_hash': got .*, the hash of what the record"):
            load_runs(tmp_path)

    @pytest.mark.parametrize("order", [[0, 2], [1, 0, 2], [1, 2], [0, 1, 1, 2]])
    def test_moved_lines(self, tmp_path: Path, order: list[int]) -> None:
        """Lines that were dropped, moved or copied break the chain of seals."""
        _, path = stored(tmp_path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[i] for i in order))
        with pytest.raises(RecordError, match="its seal does not fit, or a line before it was added, dropped or moved"):
            load_runs(tmp_path)

    def test_dropped_end(self, tmp_path: Path) -> None:
        """A finished run that has lost its last line is told by its sums."""
        _, path = stored(tmp_path)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
        with pytest.raises(RecordError, match=r"run\.json: its totals are not those of samples\.jsonl"):
            load_runs(tmp_path)

    @pytest.mark.parametrize(("share", "is_refused"), [(1e-12, False), (1e-8, True)])
    def test_another_sum(self, tmp_path: Path, share: float, is_refused: bool) -> None:
        """Seconds that another Python added up, and rounded otherwise, are the same sum; a share of 1e-8 is not."""
        path, _ = stored(tmp_path)
        old = parse_manifest(path.read_bytes(), "")
        assert old.totals is not None
        other = replace(old.totals, decode_seconds=old.totals.decode_seconds * (1 + share))
        path.write_bytes(encode(seal_manifest(replace(old, totals=other))))
        with pytest.raises(RecordError, match="its totals are not those") if is_refused else nullcontext():
            assert len(load_runs(tmp_path)[0].samples) == 3
        for change in ({"correct": 9}, {"net_tokens": 1}, {"nfe": 1}):
            path.write_bytes(encode(seal_manifest(replace(old, totals=replace(other, **change)))))
            with pytest.raises(RecordError, match="its totals are not those"):
                load_runs(tmp_path)

    def test_torn_end_hides_nothing(self, tmp_path: Path) -> None:
        """A finished run that has lost more than its last batch is refused, though its file is torn."""
        _, path = stored(tmp_path, 5)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:4]) + '{"doc')
        assert len(load_runs(tmp_path)[0].samples) == 4
        path.write_text("".join(lines[:3]) + '{"doc')
        with pytest.raises(RecordError, match="its totals are not those"):
            load_runs(tmp_path)

    def test_other_run(self, tmp_path: Path) -> None:
        """Samples that stand beside the manifest of another run do not fit it."""
        (first, _), (_, second) = stored(tmp_path / "a"), (0, tmp_path / "b")
        other = record(second, manifest("threshold:tau=0.9", planned=3), [sample(i) for i in range(3)])
        (first.parent / "samples.jsonl").write_bytes((other.folder / "samples.jsonl").read_bytes())
        with pytest.raises(RecordError, match="line 1: its seal does not fit"):
            load_runs(tmp_path / "a")


class TestReading:
    def test_nothing_there(self, tmp_path: Path) -> None:
        """A folder that is missing, a file, or without runs is a usage error that names it."""
        (tmp_path / "file").touch()
        (tmp_path / "empty" / "mini-math").mkdir(parents=True)
        for name, reason in (("nowhere", "no such folder"), ("file", "a file"), ("empty", "without any run")):
            with pytest.raises(UsageError, match=rf"got '.*{name}'.*{reason}"):
                load_runs(tmp_path / name)

    def test_any_level(self, tmp_path: Path) -> None:
        """A results folder, a task's folder and a run's folder can be read; runs come ordered."""
        for spec, task in (("threshold:tau=0.5", "b"), ("fixed-step", "b"), ("fixed-step", "a")):
            record(tmp_path, manifest(spec, task=task), [sample(0)])

        runs = load_runs(tmp_path)
        assert [(r.manifest.protocol["task"], r.manifest.strategy.name) for r in runs] == [
            ("a", "fixed-step"),
            ("b", "fixed-step"),
            ("b", "threshold"),
        ]
        assert load_runs(tmp_path / "b") == runs[1:]
        assert load_runs(runs[2].folder) == [load_run(runs[2].folder)] == runs[2:]

    def test_for_a_report(self, tmp_path: Path) -> None:
        """What a report does not show is left out of what is read for it, and nothing else."""
        stored(tmp_path)
        (run,), (lean,) = load_runs(tmp_path), load_runs(tmp_path, whole=False)

        assert all(s.output_ids and s.full_text for s in run.samples)
        assert lean.samples == tuple(replace(s, output_ids=[], full_text="") for s in run.samples)

    def test_half_written(self, tmp_path: Path) -> None:
        """A run that is being written is read as it stands, a torn line left out, without a write or a lock."""
        with open_run(tmp_path, manifest()) as writer:
            assert load_runs(tmp_path)[0].samples == ()
            writer.append([sample(0, writer.start_segment("s0", WARMUP))])
            with (writer.folder / "samples.jsonl").open("a") as file:
                file.write('{"doc_id"')
            before = content(tmp_path)
            (run,) = load_runs(tmp_path)

        assert (run.manifest.status, len(run.samples), run.torn_bytes) == ("running", 1, 9)
        assert content(tmp_path) == before

    def test_manifest_is_replaced(self, tmp_path: Path) -> None:
        """Who has opened a manifest reads the whole of it, even if it is replaced meanwhile."""
        with open_run(tmp_path, manifest()) as writer, (writer.folder / "run.json").open() as file:
            before = (writer.folder / "run.json").read_text()
            writer.start_segment("s0", WARMUP)

            assert file.read() == before != (writer.folder / "run.json").read_text()
