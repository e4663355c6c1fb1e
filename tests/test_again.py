"""`run --from`: the same again, or the difference told; and nothing taken for it that is not."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import write
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_cli import call

from l2pd_bench import protocol, runner
from l2pd_bench.again import plan_of, repeat
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import HostRequest
from l2pd_bench.hosts.mini import WEIGHTS, load
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run, load_runs, read_run
from l2pd_bench.schema import UNGRADED
from l2pd_bench.tasks.analytic import AnalyticShuffle
from l2pd_bench.worker import Worker

SMALL: dict[str, Any] = {
    "model": "analytic",
    "task": ["analytic-shuffle"],
    "strategy": ["threshold:tau=0.4", "fixed-step:k=3"],
    "cache": ["dual"],
    "eot": ["stop"],
    "temperature": 0.7,
    "seed": 3,
    "gen_length": [16],
    "block_length": 8,
    "batch_size": [3],
    "subset": 5,
}
PLUGIN = (
    "import torch\n"
    "from dataclasses import dataclass\n"
    "from typing import ClassVar\n"
    "from l2pd_bench.strategies.base import Decision, StepView, Strategy\n"
    "@dataclass(frozen=True)\n"
    "class Mine(Strategy):\n"
    "    name: ClassVar[str] = 'mine'\n"
    "    def select(self, view: StepView) -> Decision:\n"
    "        return {decision}\n"
)


def execute(output: Path, **options: Any) -> list[Run]:
    """Run a small plan, and read it back."""
    runner.execute(make_plan(None, {**SMALL, "output": output, **options}), command="l2pd-bench run ...")
    return load_runs(output)


def again(folder: Path, output: Path, **options: Any) -> Any:
    """Repeat what `folder` holds."""
    restart = options.pop("restart", False)
    return repeat(folder, {"output": output, **options}, command="l2pd-bench run --from ...", restart=restart)


class TestSame:
    def test_everything_is_as_recorded(self, tmp_path: Path) -> None:
        """Repeated runs have the setting, the items, the tokens, the scores and the forwards of the recorded ones."""
        old = execute(tmp_path / "a")
        repeated = again(tmp_path / "a", tmp_path / "b")

        new = load_runs(tmp_path / "b")
        assert repeated.exit_code == 0
        assert [r.manifest.run_id for r in old] == [r.manifest.run_id for r in new]
        for a, b in zip(old, new, strict=True):
            assert a.manifest.protocol == b.manifest.protocol
            assert [(s.doc_id, s.output_ids, s.score, s.nfe, s.positions) for s in a.samples] == [
                (s.doc_id, s.output_ids, s.score, s.nfe, s.positions) for s in b.samples
            ]
            assert a.manifest.segments[0].session != b.manifest.segments[0].session
        for spec in SMALL["strategy"]:
            told = f"{spec}: of 5 recorded samples, 5 decoded again; equal: 5 outputs, 5 scores, 5 forwards"
            assert told in repeated.message.splitlines()

    def test_one_of_several(self, tmp_path: Path) -> None:
        """A run's own folder is repeated without the runs beside it, whatever their settings."""
        execute(tmp_path / "a", cache=["none", "dual"])
        (folder,) = [r.folder for r in load_runs(tmp_path / "a") if "threshold" in r.folder.name][:1]
        repeated = again(folder, tmp_path / "b")

        (new,) = load_runs(tmp_path / "b")
        assert repeated.exit_code == 0 and len(repeated.comparisons) == 1
        assert new.folder.name == folder.name

    def test_an_oracle_gets_its_baseline(self, tmp_path: Path) -> None:
        """An oracle alone is repeated with fixed-step in the same setting, and that is said."""
        execute(tmp_path / "a", strategy=["oracle", "fixed-step"], eot=["predict"])
        (folder,) = [r.folder for r in load_runs(tmp_path / "a") if "oracle" in r.folder.name]
        repeated = again(folder, tmp_path / "b")

        assert repeated.exit_code == 0
        assert "note: decoded fixed-step, too, which the oracle goes by" in repeated.message
        assert [r.manifest.strategy.spec for r in load_runs(tmp_path / "b")] == ["fixed-step", "oracle"]
        assert [c.spec for c in repeated.comparisons] == ["oracle"]

    def test_with_traces(self, tmp_path: Path) -> None:
        """What a record does not decide may be asked for besides."""
        execute(tmp_path / "a", strategy=["fixed-step"])
        again(tmp_path / "a", tmp_path / "b", trace=True)

        assert len((load_runs(tmp_path / "b")[0].folder / "trace.jsonl").read_text().splitlines()) == 5

    def test_with_a_timeout(self, tmp_path: Path) -> None:
        """A record does not say how long a decode may take: what is too little fails the row, with its reason."""
        old = execute(tmp_path / "a", strategy=["fixed-step"])
        repeated = again(old[0].folder, tmp_path / "b", timeout=1e-5)

        assert repeated.exit_code == 1
        assert "a decode took longer than --timeout allows" in repeated.message

    @pytest.mark.parametrize("weights", [None, "random"])
    def test_a_checkpoint(self, weights: str | None, tmp_path: Path) -> None:
        """Dtype, kernel and random weights are asked for again, and so is a task's form."""
        folder = write(tmp_path / "tiny", "llada").folder
        options = {"model": str(folder), "dtype": "bfloat16", "attention": "sdpa-math", "weights": weights}
        execute(tmp_path / "a", task=["mini-math"], strategy=["fixed-step:k=8"], subset=None, limit=2, **options)
        repeated = again(tmp_path / "a", tmp_path / "b")

        (new,) = load_runs(tmp_path / "b")
        assert repeated.exit_code == 0
        assert (new.manifest.protocol["dtype"], new.manifest.protocol["attention"]) == ("bfloat16", "sdpa-math")
        assert (new.manifest.protocol["grading"] == UNGRADED) == (weights == "random")

    def test_a_commit_is_asked_for_and_no_other_revision(self, tmp_path: Path) -> None:
        """A repository's commit is the revision to load; of a model that has but one, none is."""
        (run,) = execute(tmp_path, strategy=["fixed-step"])
        assert plan_of([run], ["x"], {})[0].revision is None
        commit = "0123456789abcdef0123456789abcdef01234567"
        run.manifest.protocol["revision"] = commit

        assert plan_of([run], ["x"], {})[0].revision == commit


class TestDifferent:
    def refused(self, folder: Path, output: Path, **options: Any) -> str:
        """What repeating is refused with, before anything is written."""
        with pytest.raises(UsageError) as caught:
            again(folder, output, **options)
        assert not output.exists()
        return str(caught.value)

    def test_other_weights(self, tmp_path: Path) -> None:
        """Weights that have changed since are refused with both hashes, and so is every key that differs besides."""
        shipped = str(files("l2pd_bench.hosts").joinpath(WEIGHTS))
        tensors, path = load_file(shipped), tmp_path / "mine.safetensors"
        with safe_open(shipped, "pt") as stored:
            metadata = stored.metadata()
        save_file(tensors, path, metadata)
        (run,) = execute(
            tmp_path / "a", model=f"mini:weights={path}", strategy=["fixed-step"], task=["mini-list"], subset=1
        )
        name = next(iter(tensors))
        tensors[name] = tensors[name] + 1
        save_file(tensors, path, metadata)
        shown = self.refused(run.folder, tmp_path / "b")

        new = load(HostRequest("mini", {"weights": str(path)})).weights_hash
        old = run.manifest.protocol["weights_hash"]
        assert f"weights_hash: {old} was recorded, here it is {new}" in shown
        assert shown.count("was recorded") == 1

    def test_other_data_and_grading(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other items and another grading are refused together, each with both values."""
        (run,) = execute(tmp_path / "a", strategy=["fixed-step"])
        monkeypatch.setattr(AnalyticShuffle, "data_hash", "abc")
        monkeypatch.setattr(AnalyticShuffle, "grading", "by the letter")
        shown = self.refused(run.folder, tmp_path / "b")

        assert f"data_hash: {run.manifest.protocol['data_hash']} was recorded, here it is abc" in shown
        assert "grading: possible answer was recorded, here it is by the letter" in shown

    def test_other_code(self, tmp_path: Path) -> None:
        """A strategy whose code has changed is refused by name."""
        (tmp_path / "mine.py").write_text(PLUGIN.format(decision="Decision(view.candidates)"))
        (run,) = execute(tmp_path / "a", strategy=[f"{tmp_path}/mine.py:Mine"])
        (tmp_path / "mine.py").write_text(PLUGIN.format(decision="Decision(view.confidence > 0)"))
        shown = self.refused(run.folder, tmp_path / "b")

        assert f"code of '{tmp_path}/mine.py:Mine': {run.manifest.strategy.code_hash[:12]} was recorded" in shown

    def test_other_device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was recorded on an accelerator is refused where there is none."""
        if torch.cuda.is_available():
            pytest.skip("needs a machine without an accelerator")
        monkeypatch.setattr(protocol, "device_kind", lambda host: "NVIDIA H200")
        (run,) = execute(tmp_path / "a", strategy=["fixed-step"])
        monkeypatch.undo()

        assert "device: NVIDIA H200 was recorded, here it is cpu" in self.refused(run.folder, tmp_path / "b")

    def test_an_item_that_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An item that the task has no more is named."""
        (run,) = execute(tmp_path / "a", strategy=["fixed-step"])
        gone = run.samples[0].doc_id
        items = AnalyticShuffle().items()
        monkeypatch.setattr(AnalyticShuffle, "items", lambda self: [item for item in items if item.doc_id != gone])

        assert f"ids: got '{gone}'" in self.refused(run.folder, tmp_path / "b")

    def test_other_tokens(self, tmp_path: Path) -> None:
        """Where tokens come out otherwise the samples are named, and the exit code is 1."""
        (tmp_path / "mine.py").write_text(
            PLUGIN.format(decision="Decision(view.candidates, tokens=torch.randint(2, 20, view.tokens.shape))")
        )
        (run,) = execute(tmp_path / "a", strategy=[f"{tmp_path}/mine.py:Mine"])
        repeated = again(run.folder, tmp_path / "b")

        (compared,) = repeated.comparisons
        assert repeated.exit_code == 1
        assert set(compared.outputs) == {s.doc_id for s in run.samples}
        assert "equal: 0 outputs" in repeated.message and f"other tokens: {run.samples[0].doc_id}" in repeated.message


class TestWhere:
    def test_where_it_lies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Into `runs`, where the run itself lies, it is refused with the ways out; nothing is decoded."""
        monkeypatch.chdir(tmp_path)
        (run,) = execute(Path("runs"), strategy=["fixed-step"])
        before = {p: p.read_bytes() for p in tmp_path.rglob("*.json*")}
        with pytest.raises(UsageError, match=r"holds this run already, .* --output, or begin anew with --restart"):
            repeat(run.folder, {}, command="x")

        assert {p: p.read_bytes() for p in tmp_path.rglob("*.json*")} == before

    def test_restart(self, tmp_path: Path) -> None:
        """With --restart the records there are set aside, and compared with all the same."""
        (run,) = execute(tmp_path, strategy=["fixed-step"])
        repeated = again(run.folder, tmp_path, restart=True)

        assert repeated.exit_code == 0
        assert "5 decoded again; equal: 5 outputs" in repeated.message
        new = read_run(run.folder)
        assert new is not None and new.manifest.started >= run.manifest.started
        assert new.manifest.segments[0].session != run.manifest.segments[0].session
        assert len(list(tmp_path.rglob("*.old-*/run.json"))) == 1

    def test_continued(self, tmp_path: Path) -> None:
        """What an interrupted repetition has left is continued."""
        (run,) = execute(tmp_path / "a", strategy=["fixed-step"])
        execute(tmp_path / "b", strategy=["fixed-step"], subset=3)
        repeated = again(run.folder, tmp_path / "b")

        assert repeated.exit_code == 0
        (new,) = load_runs(tmp_path / "b")
        assert (len(new.samples), len(new.manifest.segments)) == (5, 2)


class TestWrongUse:
    def test_other_options(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Options that a record decides are refused by name, in one line, with exit code 2."""
        words = ["--strategy", "threshold", "--limit", "3", "--attn", "sdpa", "--gen-length", "64"]
        code = call(monkeypatch, "run", "mini", "--from", tmp_path, *words)

        shown = capsys.readouterr().err
        assert code == 2 and shown.count("\n") == 1
        assert "got a suite, --strategy, --gen-length, --limit, --attn as well" in shown
        assert "--output, --restart, --data-dir, --timeout, --trace, --watch, --sandbox, --unsafe-code" in shown

    def test_no_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A folder that is missing or empty is named."""
        for folder in (tmp_path, tmp_path / "nowhere"):
            assert call(monkeypatch, "run", "--from", folder) == 2
            assert str(folder) in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ({"cache": ["none"]}, r"different settings .* cache: dual and none"),
            ({"seed": 4}, r"different settings .* seed: 3 and 4"),
            ({"subset": 3, "strategy": ["factor"]}, r"different items \(.*: 3, .*: 5\)"),
        ],
    )
    def test_runs_that_share_too_little(self, second: dict[str, Any], message: str, tmp_path: Path) -> None:
        """Runs of different settings or items are refused, with what differs."""
        execute(tmp_path / "a", strategy=["fixed-step"])
        execute(tmp_path / "a", **{"strategy": ["fixed-step"], **second})
        with pytest.raises(UsageError, match=message):
            again(tmp_path / "a", tmp_path / "b")

    def test_one_run_twice(self, tmp_path: Path) -> None:
        """Two copies of one run are not one run."""
        (run,) = execute(tmp_path / "a", strategy=["fixed-step"])
        copy = tmp_path / "a" / "copy"
        copy.mkdir()
        for name in ("run.json", "samples.jsonl"):
            (copy / name).write_bytes((run.folder / name).read_bytes())
        with pytest.raises(UsageError, match=r"'fixed-step' twice"):
            again(tmp_path / "a", tmp_path / "b")

    def test_no_samples(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that has recorded nothing cannot be repeated."""

        def stop(*args: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(Worker, "decode", stop)
        execute(tmp_path / "a", strategy=["fixed-step"])
        monkeypatch.undo()
        with pytest.raises(UsageError, match="no samples recorded"):
            again(tmp_path / "a", tmp_path / "b")

    def test_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The command shows the board and the comparison, and records itself as the command."""
        (run,) = execute(tmp_path / "a", strategy=["fixed-step"])
        code = call(monkeypatch, "run", "--from", run.folder, "--output", tmp_path / "b")

        shown = capsys.readouterr().out
        assert code == 0, shown
        assert "fixed-step: of 5 recorded samples, 5 decoded again; equal: 5 outputs" in shown
        (new,) = load_runs(tmp_path / "b")
        assert new.manifest.command == f"l2pd-bench run --from {run.folder} --output {tmp_path / 'b'}"
