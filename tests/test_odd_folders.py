"""What a report says of folders that are not as they should be: a page or a sentence, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from record_factory import FAST, FIXED, manifest, record, sample

from l2pd_bench import cli
from l2pd_bench.report import RENDERERS

FORMATS = ["rich", *RENDERERS]
Shown = Callable[..., tuple[object, str, str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Run `l2pd-bench report`: exit code, standard output, standard error."""

    def call(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["l2pd-bench", "report", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code or 0, told.out, told.err

    return call


def empty(root: Path) -> None:
    """Nothing at all."""


def begun(root: Path) -> None:
    """A run that has begun and recorded nothing."""
    record(root, manifest(FAST), [], finished=False)


def half_written(root: Path) -> None:
    """A run that was killed in the middle of a line."""
    run = record(root, manifest(FAST, planned=40), [sample(i) for i in range(20)], finished=False)
    with (run.folder / "samples.jsonl").open("a") as file:
        file.write('{"doc_id": "mini-m')


def no_baseline(root: Path) -> None:
    """A run without fixed-step."""
    record(root, manifest(FAST, planned=20), [sample(i) for i in range(20)])


def mixed_models(root: Path) -> None:
    """Two models, one of which nobody graded."""
    for model, grading in (("mini", "tests run"), ("LLaDA", "none")):
        for spec in (FIXED, FAST):
            samples = [sample(i, speed=2.0) for i in range(20)]
            record(root, manifest(spec, planned=20, model=model, grading=grading), samples)


def only_errors(root: Path) -> None:
    """Every sample ended in an error."""
    record(root, manifest(FAST, planned=3), [sample(i, status="error", error="boom") for i in range(3)])


def one_sample(root: Path) -> None:
    """One sample of either row."""
    for spec in (FIXED, FAST):
        record(root, manifest(spec, planned=1), [sample(0)])


def no_time(root: Path) -> None:
    """Samples whose times do not count."""
    for spec in (FIXED, FAST):
        record(root, manifest(spec, planned=20), [sample(i, timed=False) for i in range(20)])


def older_schema(root: Path) -> None:
    """A run of an older version beside one of this."""
    no_baseline(root)
    run = record(root, manifest(FIXED, planned=20), [sample(i) for i in range(20)])
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 3'))


def times_ten(root: Path) -> None:
    """A run whose every speed was multiplied by ten."""
    run = record(root, manifest(FAST, planned=20), [sample(i) for i in range(20)])
    path = run.folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"decode": 0.', '"decode": 0.0'))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "make", [begun, half_written, no_baseline, mixed_models, only_errors, one_sample, no_time], ids=lambda f: f.__name__
)
def test_page(tmp_path: Path, shown: Shown, make: Callable[[Path], None], format: str) -> None:
    """In every format there is a page, and it names the strategy."""
    make(tmp_path)
    code, out, err = shown(tmp_path, "--format", format, *(["-o", tmp_path / "page"] if format == "html" else []))

    assert (code, err) == (0, "")
    text = out or (tmp_path / "page").read_text()
    assert "threshold" in text or format == "html"
    assert "Traceback" not in text and "nan" not in text.lower().split()


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (empty, 2, "without any run"),
        (older_schema, 1, "field 'schema_version': got 3, expected 4"),
        (times_ten, 1, "line 1: its seal does not fit"),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
@pytest.mark.parametrize("format", FORMATS)
def test_sentence(
    tmp_path: Path, shown: Shown, make: Callable[[Path], None], code: int, said: str, format: str
) -> None:
    """What cannot be read, or must not be believed, is refused in a line that says what to do."""
    make(tmp_path)
    ended, out, err = shown(tmp_path, "--format", format)

    assert (ended, out) == (code, "")
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (begun, "running, or killed: 0 of 5 samples; continue with: l2pd-bench run"),
        (half_written, "running, or killed: 20 of 40 samples"),
        (half_written, "the last line of its samples is torn"),
        (no_baseline, "no fixed-step run with one token per step in this section"),
        (only_errors, "3 of 3 samples ended in an error"),
        (one_sample, "too few samples for a claim: 1, expected at least 10: all rows"),
        (no_time, "20 of 20 samples have no valid times"),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_told(tmp_path: Path, shown: Shown, make: Callable[[Path], None], said: str) -> None:
    """What is missing is said, with what to do about it where something can be done."""
    make(tmp_path)
    assert said in " ".join(shown(tmp_path, "--format", "markdown")[1].replace("\\", "").split())


def test_models_are_never_ranked_together(tmp_path: Path, shown: Shown) -> None:
    """Two models are two sections."""
    mixed_models(tmp_path)
    out = shown(tmp_path, "--format", "markdown")[1]
    assert out.count("\n## mini-math: model ") + out.startswith("## mini-math: model ") == 2
