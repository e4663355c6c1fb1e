"""Grading recorded answers again: the same grader says the same, another filter makes a run of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import manifest, record, sample

from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.records import Run, load_runs, totals
from l2pd_bench.registry import load_task, task_spec
from l2pd_bench.score import Scored, ScoreOptions, score
from l2pd_bench.writer import write_run

# What was generated for items whose answers are 0, 1, 2, ...: with the marker, without it, wrong, stopped in time.
TEXTS = ["#### 0", "so it is 1", "#### 7", "#### 3Question: 4"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a small GSM8K."""
    rows = [{"question": f"What is {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(12)]
    for name in ("gsm8k_test.jsonl", "gsm8k_train.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    """A run of it, graded by strict-match."""
    return make_run(data, tmp_path / "runs")


def make_run(data: Path, root: Path, **changes: Any) -> Run:
    """Record `TEXTS` as the task itself grades them."""
    task = load_task("gsm8k", data_dir=data)
    setting = {"task": "gsm8k", "data_hash": task.data_hash, "grading": task.grading, "few_shot": 5, **changes}
    what = replace(manifest("threshold:tau=0.9", planned=4, **setting), task_spec=task_spec(task))
    samples = []
    for i, text in enumerate(TEXTS):
        before = text.partition("Question:")[0]
        verdict = task.grade(task.items()[i], before)
        right = {"answer": verdict.answer, "correct": verdict.correct, "score": verdict.score}
        samples.append(sample(i, doc_id=f"gsm8k/{i}", full_text=text, text=before, **right))
    return record(root, what, samples)


def scored(root: Path, **options: Any) -> list[Scored]:
    """Grade what lies there, in this process unless told otherwise."""
    return list(score(root, ScoreOptions(**{"workers": 1, **options})))


def test_the_same_grading(run: Run, data: Path) -> None:
    """Graded as recorded, every score is the same, and nothing is written."""
    before = {path: path.read_bytes() for path in run.folder.parents[1].rglob("*") if path.is_file()}
    (found,) = scored(run.folder, data_dir=data)

    assert (found.folder, found.answers, found.changed) == (None, 4, [])
    assert {path: path.read_bytes() for path in run.folder.parents[1].rglob("*") if path.is_file()} == before


def test_a_score_that_was_tampered_with(run: Run, data: Path, tmp_path: Path) -> None:
    """A recorded score that the grader does not give is found, by name, though its seal is right."""
    samples = [replace(s, score=1.0, correct=True) if s.doc_id == "gsm8k/2" else s for s in run.samples]
    folder = write_run(tmp_path, replace(run.manifest, totals=totals(samples)), samples)

    (found,) = scored(folder, data_dir=data)
    assert found.changed == ["gsm8k/2"] and "1 of 4 scores are others (gsm8k/2)" in found.message


@pytest.mark.parametrize("workers", [1, 2])
def test_another_filter(run: Run, data: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another filter's scores are a run of their own beside the first, with its texts, times and segments."""
    monkeypatch.setattr("l2pd_bench.score.SERIAL", 0)  # also four answers go to other processes
    (found,) = scored(run.folder, data_dir=data, task="gsm8k:filter=flexible-extract", workers=workers)

    assert found.changed == ["gsm8k/1"]
    old, new = (next(r for r in load_runs(run.folder.parents[1]) if r.folder == f) for f in (run.folder, found.folder))
    assert new.manifest.protocol == {**old.manifest.protocol, "grading": new.manifest.protocol["grading"]}
    assert "flexible-extract" in str(new.manifest.protocol["grading"])
    assert new.manifest.task_spec == "gsm8k:filter=flexible-extract"
    assert new.manifest.run_id != old.manifest.run_id and old.manifest.run_id in new.manifest.notes[-1]
    assert [s.correct for s in old.samples] == [True, False, False, True]
    assert [s.correct for s in new.samples] == [True, True, False, True]
    for ours, theirs in zip(new.samples, old.samples, strict=True):
        graded = {"answer": ours.answer, "correct": ours.correct, "score": ours.score}
        assert replace(theirs, **graded, seal=ours.seal) == ours
    assert new.manifest.segments == old.manifest.segments
    assert new.manifest.totals is not None and new.manifest.totals.correct == 3


def test_twice(run: Run, data: Path) -> None:
    """A grading that is recorded already is not written again."""
    options = {"data_dir": data, "task": "gsm8k:filter=flexible-extract"}
    scored(run.folder, **options)
    with pytest.raises(RecordError, match="is there already"):
        scored(run.folder, **options)


def test_another_stop(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other stop strings make another text of what was generated, whose tokens the model's tokenizer counts."""
    from l2pd_bench.tasks.gsm8k import Gsm8k

    monkeypatch.setattr(Gsm8k, "stop", ())
    monkeypatch.setattr(Gsm8k, "grading", "without stops")
    (found,) = scored(run.folder, data_dir=data, output=tmp_path / "other")
    (new,) = load_runs(tmp_path / "other")

    assert found.folder == new.folder and [s.text for s in new.samples] == TEXTS
    assert [s.tokens for s in new.samples[:3]] == [s.tokens for s in run.samples[:3]]
    assert new.samples[3].tokens.answer != run.samples[3].tokens.answer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "mini-math"}, "got 'mini-math' for .*, which is of task 'gsm8k'"),
        ({"task": "gsm8k:shots=3"}, "was decoded from other items or prompts than those of 'gsm8k:shots=3' now"),
        ({"task": "gsm8k:filter=strict"}, "did you mean 'strict-match'"),
        ({"workers": 0}, "workers: got 0, expected at least 1"),
    ],
)
def test_wrong_requests(run: Run, data: Path, options: dict[str, Any], said: str) -> None:
    """Another task, other prompts and unknown filters are refused."""
    with pytest.raises(UsageError, match=said):
        scored(run.folder, data_dir=data, **options)


def test_never_graded(data: Path, tmp_path: Path) -> None:
    """The answers of random weights have no grading that could be repeated."""
    run = make_run(data, tmp_path / "runs", grading="none")
    with pytest.raises(UsageError, match="was not graded"):
        scored(run.folder, data_dir=data)
