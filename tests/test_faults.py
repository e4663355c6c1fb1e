"""Runs under faults: after each, the command is repeated, and the records are those of an undisturbed run.

Every call that changes the disk, every decode and every grading is in turn the one at
which it happens. The rest of the sweeps takes minutes and wants L2PD_BENCH_FULL=1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from fault_factory import DISK, PLAN, WARM_ROUNDS, End, Factory, Fault
from task_items import FULL

from l2pd_bench.records import load_runs
from l2pd_bench.trace import Trace, read_traces

DECODE = "l2pd_bench.worker.decode"
FORWARD = "l2pd_bench.hosts.analytic.AnalyticSession.forward"
GRADE = "l2pd_bench.grading.Grader.grade"
MANIFEST = "l2pd_bench.writer._save l2pd_bench.writer.RunWriter.start_segment l2pd_bench.writer.RunWriter.finish"
NEVER = 10**9
ROWS, LIMIT = len(PLAN["strategy"]), PLAN["limit"]
# Decodes that are recorded: of both rows the one behind the rounds of warm-up, then one for each further item.
TIMED = [*(row * (WARM_ROUNDS + 1) for row in range(1, ROWS + 1))]
TIMED += range(TIMED[-1] + 1, TIMED[-1] + 1 + ROWS * (LIMIT - 1))
BATCHES = {"trace": True, "batch_size": [2], "limit": 3}


class Undisturbed:
    """What a run leaves that nothing happens to, and a factory for others."""

    def __init__(self, factory: Factory, folder: Path) -> None:
        self.run, self.folder = factory.run, folder
        assert factory.run(folder) == End(0, "", [])
        self.traces, self.content, self.files = traces(folder), content(folder), files(folder)

    def calls(self, names: str) -> list[str]:
        """Which of these functions are called by a run, from its begin to its end."""
        return self.run(Path(mkdtemp(dir=self.folder.parent)), Fault(names, NEVER, "kill")).calls

    def is_reached(self, folder: Path) -> None:
        """Repeat the command: everything is there, once, and nothing else."""
        end = self.run(folder)
        assert (end.code, "Traceback" in end.said) == (0, False), end
        assert content(folder) == self.content
        assert traces(folder) == self.traces
        assert files(folder) == self.files
        assert {run.manifest.status for run in load_runs(folder)} == {"finished"}


def files(root: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def content(root: Path) -> dict[str, dict[str, Any]]:
    """The samples below a folder, without what time tells; raises for one that is there twice."""
    found = {}
    for path in root.glob("*/*/samples.jsonl"):
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        for sample in samples if ".old-" not in path.parent.name else []:
            key = f"{path.parent.name} {sample['doc_id']}"
            assert key not in found
            if sample["status"] == "ok":
                found[key] = {k: v for k, v in sample.items() if k not in ("seconds", "segment", "elapsed_s", "seal")}
    return found


def traces(root: Path) -> dict[str, dict[str, Trace]]:
    """All traces below a folder."""
    return {run.folder.name: read_traces(run.folder) for run in load_runs(root)}


def recorded(root: Path) -> int:
    """How many samples are there, whether a run has begun or not."""
    return sum(path.read_bytes().count(b"\n") for path in root.rglob("samples.jsonl"))


@pytest.fixture(scope="module", params=[{}, *([BATCHES] if FULL else [])], ids=lambda options: ",".join(options))
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """A warm process and the undisturbed run; if there is time, one of batches with traces as well."""
    with Factory(**request.param) as factory:
        yield Undisturbed(factory, tmp_path_factory.mktemp("clean") / "undisturbed")


@pytest.mark.parametrize("names", [DISK, f"{DECODE} {GRADE}", *([MANIFEST] if FULL else [])], ids="disk work run".split)
def test_kill_nine(clean: Undisturbed, tmp_path: Path, names: str) -> None:
    """Killed at any change of the disk (half of a write done), any decode or any grading, a run is continued."""
    points = len(clean.calls(names))
    assert points >= 10
    for at in range(1, points + 1):
        end = clean.run(tmp_path / str(at), Fault(names, at, "kill"))
        assert end.code == -9, at
        clean.is_reached(tmp_path / str(at))


@pytest.mark.parametrize(("action", "times"), [("ENOSPC", NEVER), *([("ENOSPC", 1), ("EIO", 1)] if FULL else [])])
def test_full_disk(clean: Undisturbed, tmp_path: Path, action: str, times: int) -> None:
    """A disk that is full from any change on ends the run with words, and with room again it is continued."""
    for at in range(1, len(clean.calls(DISK)) + 1, 1 if FULL else 2):
        end = clean.run(tmp_path / str(at), Fault(DISK, at, action, times))
        if times == 1 and end.code == 0:
            clean.is_reached(tmp_path / str(at))  # not every file that is opened is one of the records
            continue
        assert end.code == 1, (at, end)
        assert end.said.startswith("error: ") and "Traceback" not in end.said
        assert ("No space left on device" if action == "ENOSPC" else "Input/output error") in end.said
        assert "repeat the command" in end.said or "choose another with --output" in end.said
        clean.is_reached(tmp_path / str(at))


@pytest.mark.parametrize("action", ["EROFS", "EACCES"])
def test_read_only_folder(clean: Undisturbed, tmp_path: Path, action: str) -> None:
    """A results folder that cannot be written, empty or full, is named at once, and stays as it is."""
    for folder in (tmp_path, clean.folder):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        end = clean.run(folder, Fault("os.open os.mkdir", 1, action, NEVER))

        assert end.code == 1 and "--output" in end.said
        assert ("Read-only file system" if action == "EROFS" else "Permission denied") in end.said
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("action", ["SIGINT", "SIGTERM", "SIGINT SIGINT"])
def test_ctrl_c(clean: Undisturbed, tmp_path: Path, action: str) -> None:
    """Asked once, a run finishes the decode it is in and no other; asked again, it drops that; both are continued."""
    names = f"{DECODE} {FORWARD}"
    calls = clean.calls(names)
    if len(clean.content) > ROWS * LIMIT:
        pytest.skip("how many of a batch are done, the tests of the engine know")
    assert calls.count(DECODE) == TIMED[-1]
    points = [at for at, name in enumerate(calls, start=1) if name == FORWARD]
    for at in points[:: 1 if FULL else 7 if action == "SIGTERM" else 2]:
        folder, decodes = tmp_path / str(at), calls[:at].count(DECODE)
        end = clean.run(folder, Fault(names, at, action))
        kept = sum(timed < decodes + (action != "SIGINT SIGINT") for timed in TIMED)

        assert end.code == (0 if kept == len(TIMED) else 130), at
        assert recorded(folder) == kept, at
        assert end.said.startswith("stopping: what is under way is finished and written (")
        assert ("interrupted; to continue: REPEAT" in end.said) == (kept < len(TIMED))
        for run in load_runs(folder):
            assert run.manifest.status == ("finished" if len(run.samples) == LIMIT else "interrupted")
        clean.is_reached(folder)


@pytest.mark.skipif(not FULL, reason="minutes")
@pytest.mark.parametrize("action", ["SIGINT", "SIGINT SIGINT"])
def test_ctrl_c_while_writing(clean: Undisturbed, tmp_path: Path, action: str) -> None:
    """Nothing is half written, wherever in writing Ctrl-C comes."""
    for at in range(1, len(clean.calls(DISK)) + 1):
        end = clean.run(tmp_path / str(at), Fault(DISK, at, action))
        assert end.code in (0, 130), end
        clean.is_reached(tmp_path / str(at))


def test_one_lack_of_memory(clean: Undisturbed, tmp_path: Path) -> None:
    """Where memory lacks once, at any decode, what was lost by it is there after a repeat, and the row says so."""
    for at in range(1, len(clean.calls(DECODE)) + 1):
        end = clean.run(tmp_path / str(at), Fault(DECODE, at, "oom"))
        assert end.code == 0, end
        told = [segment.error for run in load_runs(tmp_path / str(at)) for segment in run.manifest.segments]
        assert list(filter(None, told)) in ([f"out of memory at a batch of {n}"] for n in (1, 2))
        clean.is_reached(tmp_path / str(at))


def test_clock_set_back(clean: Undisturbed, tmp_path: Path) -> None:
    """A clock that goes back with every look changes nothing; nor does one that stands, at two restarts."""
    clean.run(tmp_path / "a", Fault(GRADE, 2, "SIGINT"))
    assert clean.run(tmp_path / "a", Fault("", 0, "clock back")).code == 0
    clean.is_reached(tmp_path / "a")
    for run in load_runs(tmp_path / "a"):
        assert run.manifest.segments[0].started > run.manifest.segments[-1].started or len(run.manifest.segments) == 1
        assert all(sample.elapsed_s >= 0 for sample in run.samples)
    for _ in range(2):
        assert clean.run(tmp_path / "a", Fault("", 0, "clock stands"), restart=True).code == 0
    assert len(list(tmp_path.rglob("*.old-*/samples.jsonl"))) == 2 * ROWS
    assert content(tmp_path / "a") == clean.content


def spoil(path: Path, tail: str) -> None:
    """Leave at the end of a file what a crash, or a copy that was broken off, may leave there."""
    data = path.read_bytes()
    last = data[data[:-1].rindex(b"\n") + 1 :]
    path.write_bytes({"torn": data[:-40], "half": data + last[:40], "twice": data + last}[tail])


def test_copied_tail(clean: Undisturbed, tmp_path: Path) -> None:
    """A last line that stands there again as a whole no crash has left: it is refused, and nothing is written."""
    clean.run(tmp_path)
    for path in tmp_path.rglob("samples.jsonl"):
        spoil(path, "twice")
    before = {path: path.read_bytes() for path in tmp_path.rglob("samples.jsonl")}
    end = clean.run(tmp_path)
    assert end.code == 1 and "its seal does not fit" in end.said
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("tail", ["torn", "half"])
def test_tails(clean: Undisturbed, tmp_path: Path, tail: str) -> None:
    """A last line that is torn, or stands there again in part, is dropped, and that is said."""
    clean.run(tmp_path)
    for path in tmp_path.rglob("samples.jsonl"):
        spoil(path, tail)
    end = clean.run(tmp_path)
    assert end.code == 0 and end.said.count("note: ") == ROWS
    clean.is_reached(tmp_path)
