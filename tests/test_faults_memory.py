"""A device without enough memory: smaller batches, the same tokens, and records that say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from record_factory import content as bytes_of
from record_factory import rendered
from test_faults_plugins import HEAD
from test_faults_plugins import execute as plugin_run
from typer.testing import CliRunner

from l2pd_bench import cli, runner, tracer, worker
from l2pd_bench.decoded import BatchDecoded
from l2pd_bench.engine import decode
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.memory import is_out_of_memory
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run, load_runs
from l2pd_bench.report import make_board
from l2pd_bench.report.pairing import correct
from l2pd_bench.tasks.analytic import AnalyticShuffle
from l2pd_bench.trace import read_traces

SPECS = ["fixed-step:k=2", "threshold:tau=0.4"]
CPU_ALLOCATOR = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes")
Prompt = list[int]


class Device:
    """Memory for so many prompts at once, and never for those of some items, by number."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, room: int, failure: Exception, never: Sequence[int] = ()
    ) -> None:
        self.sizes: list[int] = []
        items = AnalyticShuffle().items()
        self.room, self._never, self._failure = room, [AnalyticHost().encode(items[i].prompt) for i in never], failure
        monkeypatch.setattr(worker, "decode", self._decode)

    def _decode(
        self, host: Any, strategy: Any, prompts: Sequence[Prompt], *rest: Any, slots: int | None = None, **options: Any
    ) -> BatchDecoded:
        self.sizes.append(at_once := min(slots or len(prompts), len(prompts)))
        options |= {} if slots is None else {"slots": slots}
        if at_once > self.room or any(prompt in self._never for prompt in prompts):
            raise self._failure
        return decode(host, strategy, prompts, *rest, **options)


def execute(output: Path, strategy: list[str] = SPECS, *, limit: int = 12, batch_size: int = 4) -> runner.Outcome:
    """Run a small plan in batches of four, or as said."""
    asked = {"model": "analytic", "task": ["analytic-shuffle"], "strategy": strategy, "temperature": 1.0}
    setting = {"gen_length": [4], "block_length": 4, "batch_size": [batch_size], "limit": limit, "output": output}
    return runner.execute(make_plan(None, {**asked, **setting}), command="REPEAT")


def runs(root: Path) -> list[Run]:
    """The runs, in the order of `SPECS`."""
    found = {run.manifest.strategy.spec: run for run in load_runs(root)}
    return [found[spec] for spec in SPECS if spec in found]


def decoded(root: Path) -> list[list[tuple[Any, ...]]]:
    """What was decoded and counted for every sample that came to its end, row by row."""
    shown = ("doc_id", "output_ids", "text", "score", "nfe", "positions", "forced_commits")
    done = [sorted((s for s in run.samples if s.status == "ok"), key=lambda s: s.doc_id) for run in runs(root)]
    return [[tuple(getattr(s, name) for name in shown) for s in samples] for samples in done]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the plan on a device with memory enough."""
    root = tmp_path_factory.mktemp("undisturbed")
    execute(root)
    return root


@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("CUDA out of memory."), CPU_ALLOCATOR, MemoryError()],
    ids=lambda f: type(f).__name__,
)
def test_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, failure: Exception) -> None:
    """Batches that do not fit are decoded by halves, then always so, with the same tokens; the row is INVALID."""
    device = Device(monkeypatch, 1, failure)
    outcome = execute(tmp_path, SPECS[:1])

    assert outcome.exit_code == 0
    assert device.sizes[:2] == [4, 2] and set(device.sizes[2:]) == {1}
    (run,) = load_runs(tmp_path)
    assert decoded(tmp_path) == decoded(undisturbed)[:1]
    (segment,) = run.manifest.segments
    assert segment.error == "out of memory at a batch of 4\nout of memory at a batch of 2"
    assert (run.manifest.status, run.manifest.error) == ("finished", None)
    assert len({sample.elapsed_s for sample in run.samples}) == 12  # each decoded by itself
    (row,) = make_board([run]).sections[0].rows
    assert row.invalid[0] == "a decode failed: out of memory at a batch of 4"


def test_warm_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path) -> None:
    """A row that must do with less memory later on is warmed up at its new size, in a segment of its own."""
    calls: list[tuple[int, int | None]] = []
    timed = decode

    def shrinks(host: Any, strategy: Any, prompts: Any, *rest: Any, **options: Any) -> BatchDecoded:
        calls.append((len(prompts), options["slots"]))
        if (8, 4) in calls[:-1] and options["slots"] > 2:  # behind the first turn
            raise CPU_ALLOCATOR
        return timed(host, strategy, prompts, *rest, **options)

    monkeypatch.setattr(worker, "decode", shrinks)
    execute(tmp_path, SPECS[:1])

    assert decoded(tmp_path) == decoded(undisturbed)[:1]
    (run,) = load_runs(tmp_path)
    first, second = run.manifest.segments
    at = calls.index((8, 4)) + 1
    rounds = second.warmup.rounds
    assert rounds >= 2 and calls[at:] == [(4, 4), *[(2, 2)] * rounds, (1, 1), (1, 1), (4, 2)]
    assert (first.warmup.samples, second.warmup.samples) == (4, 2)
    assert (first.error, second.error) == (None, "out of memory at a batch of 4")
    assert second.alone is not None and first.session == second.session
    assert [s.segment for s in run.samples] == [0] * 8 + [1] * 4


BEGIN = """        raise AssertionError

    def begin(self, context):
        bytearray(2**62)"""


@pytest.mark.parametrize(
    ("body", "line"),
    [("        [0] * 2**62", 13), ("        raise MemoryError('mine')", 13), (BEGIN, 16)],
    ids=["list", "raised", "begin"],
)
def test_a_strategys_own(tmp_path: Path, body: str, line: int) -> None:
    """Python's MemoryError out of a strategy's file is its bug: it ends the row with its line, with no halving."""
    outcome, found = plugin_run(tmp_path, body, batch_size=[2])

    assert outcome.exit_code == 1 and "MemoryError" in outcome.message
    assert f"(mine.py, line {line})" in outcome.message
    assert (found["Mine"].manifest.status, found["Mine"].samples) == ("failed", ())
    assert "out of memory" not in str(found["Mine"].manifest.segments)
    assert (found["fixed-step"].manifest.status, len(found["fixed-step"].samples)) == ("finished", 3)


def test_a_derived_strategys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one out of the file of the strategy that it is derived from."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rule_of_mine.py").write_text(HEAD + "        raise MemoryError")
    derived = "\nfrom rule_of_mine import Mine as Rule\n@dataclass(frozen=True)\nclass Mine(Rule):\n    pass\n"
    outcome, found = plugin_run(tmp_path, "        return None\n" + derived, batch_size=[2])

    assert "(rule_of_mine.py, line 13)" in outcome.message and found["Mine"].samples == ()


def test_what_torch_lacks_in_a_strategy(tmp_path: Path) -> None:
    """Torch's lack of memory there is the batch's, which is halved; a sample that does not fit alone names the line."""
    _, found = plugin_run(tmp_path, "        torch.empty(10**15)", batch_size=[2], limit=2)

    samples = found["Mine"].samples
    assert [s.status for s in samples] == ["oom", "oom"]
    assert all("can't allocate memory" in str(s.error) and str(s.error).endswith("(mine.py, line 13)") for s in samples)
    assert str(found["Mine"].manifest.segments[0].error).startswith("out of memory at a batch of 2\n")


def test_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path) -> None:
    """What was decoded in halves is traced in halves, at once and by a later command."""
    plain = tracer.decode
    at_once: list[int] = []

    def little(*rest: Any, slots: int, **options: Any) -> BatchDecoded:
        at_once.append(slots)
        if slots > 1:
            raise MemoryError
        return plain(*rest, slots=slots, **options)

    monkeypatch.setattr(tracer, "decode", little)
    shutil.copytree(undisturbed, tmp_path / "out")
    asked = {"model": "analytic", "task": ["analytic-shuffle"], "strategy": SPECS, "temperature": 1.0, "trace": True}
    setting = {"gen_length": [4], "block_length": 4, "batch_size": [4], "limit": 12, "output": tmp_path / "out"}
    outcome = runner.execute(make_plan(None, {**asked, **setting}), command="REPEAT")

    assert (outcome.exit_code, outcome.message) == (0, "")
    assert at_once[:3] == [4, 2, 1]
    assert {len(read_traces(run.folder)) for run in runs(tmp_path / "out")} == {12}


def test_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one row had to do with less memory, another does not: each is halved for itself."""
    device = Device(monkeypatch, 4, CPU_ALLOCATOR)
    fits = worker.decode

    def second_needs_more(host: Any, strategy: Any, prompts: Any, *rest: Any, **options: Any) -> BatchDecoded:
        device.room = 4 if strategy.name == "fixed-step" else 2
        return fits(host, strategy, prompts, *rest, **options)

    monkeypatch.setattr(worker, "decode", second_needs_more)
    execute(tmp_path)

    errors = [[segment.error for segment in run.manifest.segments] for run in runs(tmp_path)]
    assert errors == [[None], ["out of memory at a batch of 4"]]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, runner.Outcome]:
    """Records of a device on which the first item and the sixth do not fit."""
    root = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as monkeypatch:
        Device(monkeypatch, 4, CPU_ALLOCATOR, never=[0, 5])
        return root, execute(root)


class TestOneThatNeverFits:
    def test_recorded(self, short: tuple[Path, runner.Outcome], undisturbed: Path) -> None:
        """It is recorded as out of memory, as a wrong answer; all others are as they would be."""
        root, outcome = short
        lacking = ("analytic-shuffle/000", "analytic-shuffle/005")
        for run in runs(root):
            failed = [s for s in run.samples if s.status == "oom"]
            assert tuple(s.doc_id for s in failed) == lacking
            assert {(s.error, s.correct, s.score, s.timed) for s in failed} == {(str(CPU_ALLOCATOR), False, 0.0, False)}
        assert decoded(root) == [[s for s in row if s[0] not in lacking] for row in decoded(undisturbed)]
        assert outcome.exit_code == 0
        assert outcome.message.count("out of memory: ") == 2
        assert "2 samples, which count as wrong; to try them again: REPEAT" in outcome.message

    def test_report(self, short: tuple[Path, runner.Outcome]) -> None:
        """Accuracy is over all twelve, the row is INVALID and says how many lacked memory."""
        board = make_board(load_runs(short[0]))
        for row in board.sections[0].rows:
            right = sum(correct(sample) for sample in row.run.samples)
            assert right <= 10 and row.accuracy == pytest.approx(100 * right / 12)
            assert row.invalid[0] == "2 of 12 samples ran out of memory"
            assert row.errors == 2
        assert "ran out of memory" in rendered(board, 160)

    def test_repeated(self, short: tuple[Path, runner.Outcome], undisturbed: Path, tmp_path: Path) -> None:
        """A repeat of the command tries them again, and them only; then nothing is missing."""
        root = shutil.copytree(short[0], tmp_path / "again")
        before = [len(run.samples) for run in runs(root)]
        assert execute(root).message == ""

        assert decoded(root) == decoded(undisturbed)
        assert [len(run.samples) for run in runs(root)] == before == [12, 12]
        assert [sum(s.segment == len(r.manifest.segments) - 1 for s in r.samples) for r in runs(root)] == [2, 2]

    def test_other_commands(self, short: tuple[Path, runner.Outcome]) -> None:
        """`score`, `compare` and `report` take such records, and change none."""
        root, _ = short
        before = bytes_of(root)
        folders = [str(run.folder) for run in runs(root)]
        for words in (["score", str(root), "--workers", "1"], ["compare", *folders], ["report", str(root)]):
            result = CliRunner().invoke(cli.app, words)
            assert result.exit_code in (0, 1) and (result.exception is None or isinstance(result.exception, SystemExit))
        assert "0 of 10 scores are others" in CliRunner().invoke(cli.app, ["score", str(root), "--workers", "1"]).output
        assert bytes_of(root) == before


def test_the_first_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded behind a first item that did not fit is warmed up, and its segment says how."""
    Device(monkeypatch, 1, CPU_ALLOCATOR, never=[0])
    execute(tmp_path, SPECS[:1], limit=2, batch_size=1)

    (run,) = load_runs(tmp_path)
    assert [(s.status, s.segment) for s in run.samples] == [("oom", 0), ("ok", 1)]
    first, second = run.manifest.segments
    assert (first.error, first.warmup.rounds) == ("out of memory at a batch of 1", 0)
    assert second.error is None and second.warmup.rounds >= 2
    assert first.session == second.session


def test_an_oracle_without_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the baseline lacked memory its oracle has nothing to go by: it does the rest, and says why it stopped."""
    Device(monkeypatch, 4, CPU_ALLOCATOR, never=[0])
    outcome = execute(tmp_path, ["fixed-step", "oracle"], limit=4, batch_size=1)

    states = {run.manifest.strategy.name: run for run in load_runs(tmp_path)}
    assert (states["fixed-step"].manifest.status, states["oracle"].manifest.status) == ("finished", "failed")
    assert [s.doc_id for s in states["oracle"].samples] == [f"analytic-shuffle/00{i}" for i in (1, 2, 3)]
    words = "no decode of fixed-step to go by for analytic-shuffle/000, as that ran out of memory there; free some"
    assert outcome.exit_code == 1 and words in outcome.message

    monkeypatch.undo()
    assert execute(tmp_path, ["fixed-step", "oracle"], limit=4, batch_size=1).exit_code == 0  # as the words promise
    assert {len(run.samples) for run in load_runs(tmp_path)} == {4}


@pytest.mark.parametrize(
    ("failing", "is_memory"),
    [
        (lambda: torch.empty(10**15), True),
        (lambda: [0] * 10**15, True),
        (lambda: torch.zeros(2) @ torch.zeros(3), False),
        (lambda: int("x"), False),
    ],
    ids=["tensor", "list", "shapes", "value"],
)
def test_what_is_a_lack_of_memory(failing: Callable[[], Any], is_memory: bool) -> None:
    """Torch's allocator and Python's are recognised by what they raise here; other failures are not taken for it."""
    with pytest.raises((RuntimeError, MemoryError, ValueError)) as raised:
        failing()
    assert is_out_of_memory(raised.value) == is_memory
