"""Runs of many workers without ray: chunks, deaths and refusals, played by a crew in this process."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from l2pd_bench import runner, sharded_executor
from l2pd_bench.cells import Cell
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.job import Agenda, prepare_job
from l2pd_bench.plan import Plan, make_plan
from l2pd_bench.records import load_runs
from l2pd_bench.remote import Introduction, RemoteWorker, check_here, report_of
from l2pd_bench.rows import rows_of
from l2pd_bench.sharded_executor import Answered, Event, Joined, Lost, Member, ShardedExecutor, commonest, gather
from l2pd_bench.shards import Shards
from l2pd_bench.worker import Turn

SMALL: dict[str, Any] = {
    "model": "analytic",
    "task": ["analytic-shuffle"],
    "strategy": ["fixed-step", "threshold:tau=0.4", "oracle"],
    "batch_size": [1, 3],
    "temperature": 1.0,
    "limit": 14,
}


def small(output: Path, **options: Any) -> Plan:
    """A plan of six rows."""
    return make_plan(None, {**SMALL, "output": output, **options})


def content(root: Path) -> dict[tuple[str, str], Any]:
    """What is recorded of every sample, but for seconds and who decoded it."""
    found = {}
    for run in load_runs(root):
        for s in run.samples:
            key = (str(run.folder.relative_to(root)), s.doc_id)
            assert key not in found, "recorded twice"
            found[key] = (s.output_ids, s.text, s.score, s.tokens, s.nfe, s.positions, s.flops, s.status)
    return found


class PlayedCrew:
    """Workers in this process. Whoever is asked may die, as `dies` says; others join, while there are any left."""

    def __init__(self, plan: Plan, workers: int, dies: Any = lambda *asked: False, spare: int = 99) -> None:
        self.plan, self.dies, self.spare = plan, dies, spare
        self.ready: dict[Member, RemoteWorker] = {}
        self.asked: dict[Member, tuple[Hashable, list[str], Any]] = {}
        self.events: list[Event] = []
        self.refused: list[Member] = []
        self.order: list[Member] = []
        for _ in range(workers):
            self.join()

    def join(self) -> None:
        """One more worker."""
        member, worker = Member(len(self.order), "played"), RemoteWorker()
        self.order.append(member)
        self.ready[member] = worker
        self.events.append(Joined(member, worker.prepare(self.plan, ".")))

    def poll(self, timeout_s: float) -> list[Event]:
        """All that are asked answer, in an order of their own."""
        for member in sorted(self.asked, key=lambda member: hash((member.number, len(self.order)))):
            key, doc_ids, references = self.asked.pop(member)
            if self.dies(member, key, doc_ids):
                del self.ready[member]
                self.events.append(Lost(member, "died: played"))
                if self.spare:
                    self.spare -= 1
                    self.join()
            else:
                self.events.append(Answered(member, self.ready[member].decode(key, doc_ids, references)))
        events, self.events = self.events, []
        return events

    def starting(self) -> int:
        """Those that join do so at once."""
        return 0

    def ask(self, member: Member, key: Hashable, doc_ids: Sequence[str], references: list[list[int]] | None) -> None:
        """One thing at a time."""
        assert member not in self.asked
        self.asked[member] = key, [*doc_ids], references

    def refuse(self, member: Member) -> None:
        """It is not asked again."""
        self.refused.append(member)

    def foreign(self, member: Member) -> list[str]:
        """Somebody else, on the first worker's device."""
        return ["other (1)"] if member.number == 0 else []

    def close(self) -> None:
        """Nothing to end."""


def run(plan: Plan, crew: PlayedCrew) -> tuple[runner.Outcome, list[str]]:
    """Run a plan with a crew; what came of it, and what was told."""
    told: list[str] = []
    members = gather(crew, told.append)
    job = prepare_job(plan)
    theirs = commonest(members)
    agenda = Agenda(theirs.facts, theirs.machine, job.strategies, job.tasks, job.items)
    executor = ShardedExecutor(crew, agenda, check_here(plan, agenda, theirs), members, told.append)
    return runner.run_agenda(plan, agenda, executor, command="l2pd-bench run ..."), told


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What a run in one process records."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert runner.execute(small(root), command="l2pd-bench run ...").exit_code == 0
    return content(root)


class TestWorkers:
    def test_equal_to_one_process(self, tmp_path: Path, undisturbed: Any) -> None:
        """Three workers record what one process does, and every item has all its rows from one worker."""
        outcome, told = run(small(tmp_path), PlayedCrew(small(tmp_path), 3))

        assert (outcome.exit_code, told) == (0, [])
        assert content(tmp_path) == undisturbed
        sessions: dict[str, set[str]] = {}
        for each in load_runs(tmp_path):
            for sample in each.samples:
                sessions.setdefault(sample.doc_id, set()).add(each.manifest.segments[sample.segment].session)
            seen = {segment.session for segment in each.manifest.segments if segment.foreign}
            assert len(seen) == 1  # what is on one worker's device is noted of its segments only
        assert {len(found) for found in sessions.values()} == {1}
        assert len(set.union(*sessions.values())) == 3  # all of them took part

    @pytest.mark.parametrize("seed", [1, 2])
    def test_deaths_lose_nothing(self, tmp_path: Path, undisturbed: Any, seed: int) -> None:
        """Workers that die at random cost nothing but time: the records are those of an undisturbed run."""
        draw = random.Random(seed)
        crew = PlayedCrew(small(tmp_path), 2, lambda *_: draw.random() < 0.2)

        outcome, told = run(small(tmp_path), crew)

        assert outcome.exit_code == 0
        assert content(tmp_path) == undisturbed
        assert len(told) == len(crew.order) - 2 > 0  # every death is told

    def test_continues_what_one_process_began(self, tmp_path: Path, undisturbed: Any) -> None:
        """Workers go on where a run in one process has stopped, and the other way round."""
        runner.execute(small(tmp_path, limit=3), command="l2pd-bench run ...")
        run(small(tmp_path, limit=6), PlayedCrew(small(tmp_path, limit=6), 2))
        runner.execute(small(tmp_path), command="l2pd-bench run ...")

        assert content(tmp_path) == undisturbed

    def test_a_deadly_row_fails_alone(self, tmp_path: Path, undisturbed: Any) -> None:
        """A batch that costs three workers fails its row, whose message names it; all other rows are whole."""
        plan = small(tmp_path, batch_size=[1])
        deadly = ("analytic-shuffle", 1)
        crew = PlayedCrew(plan, 2, lambda member, key, doc_ids: key == deadly and "analytic-shuffle/003" in doc_ids)

        outcome, _ = run(plan, crew)

        assert outcome.exit_code == 1 and "3 workers died" in outcome.message and "003" in outcome.message
        assert len(crew.order) == 2 + 3
        runs = {each.manifest.strategy.spec: each for each in load_runs(tmp_path)}
        assert runs["threshold:tau=0.4"].manifest.status == "failed"
        assert {spec: len(each.samples) for spec, each in runs.items() if spec != "threshold:tau=0.4"} == {
            "fixed-step": 14,
            "oracle": 14,
        }

        assert run(plan, PlayedCrew(plan, 1))[0].exit_code == 0  # once mended, the same command completes it
        assert content(tmp_path).items() <= undisturbed.items()

    def test_what_others_were_decoding_is_kept(self, tmp_path: Path, undisturbed: Any) -> None:
        """When a batch fails its row, what other workers were decoding of it is recorded, in sound segments."""
        plan = small(tmp_path, batch_size=[1], strategy=["fixed-step"])

        class OneFails(PlayedCrew):
            has_failed = False

            def poll(self, timeout_s: float) -> list[Event]:
                asked = [*self.asked]
                events = super().poll(timeout_s)
                if not asked or self.has_failed:
                    return events
                self.has_failed = True
                assert all(isinstance(event, Answered) for event in events)
                told = [
                    Turn([], error="mine: oops"),
                    *[e.turn for e in events[1:-1] if isinstance(e, Answered)],
                    Turn([], error="mine: late"),
                ]
                return [Answered(event.member, turn) for event, turn in zip(events, told, strict=True)]

        crew = OneFails(plan, 4)
        outcome, _ = run(plan, crew)

        assert outcome.exit_code == 1 and "mine: oops" in outcome.message
        (only,) = load_runs(tmp_path)
        assert (only.manifest.status, only.manifest.error) == ("failed", "mine: oops")
        assert [segment.error for segment in only.manifest.segments] == ["mine: oops", None, None]
        assert len(only.samples) == 3  # of the two others, and of the first one's next batch, which it had by then

        assert run(plan, PlayedCrew(plan, 1))[0].exit_code == 0  # the same command completes it
        assert len(content(tmp_path)) == 14 and content(tmp_path).items() <= undisturbed.items()

    def test_all_gone(self, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a worker the run waits, says so, and ends with how to continue; which then completes it."""
        monkeypatch.setattr(sharded_executor, "GONE_S", 0.2)
        monkeypatch.setattr(sharded_executor, "TELL_S", 0.1)
        asked = []
        crew = PlayedCrew(small(tmp_path), 2, lambda *asking: asked.append(asking) or len(asked) > 20, spare=0)

        with pytest.raises(BenchError, match="repeat the command"):
            run(small(tmp_path), crew)

        assert 0 < len(content(tmp_path)) < len(undisturbed)
        run(small(tmp_path), PlayedCrew(small(tmp_path), 2))
        assert content(tmp_path) == undisturbed


class TestWhoTakesPart:
    def test_others_take_no_part(self, tmp_path: Path, undisturbed: Any) -> None:
        """Most workers decide; those with another device, torch, processor or code decode nothing, and are told of."""
        plan = small(tmp_path, batch_size=[1])

        class Mixed(PlayedCrew):
            def join(self) -> None:
                super().join()
                _, (name, report) = joined = self.events.pop()
                assert isinstance(joined, Joined)
                changed = [
                    report._replace(facts=report.facts._replace(device="NVIDIA H200")),
                    report._replace(machine={**report.machine, "packages": {"torch": "1.0"}}),
                    report._replace(machine={**report.machine, "cpu": "another"}),
                    report._replace(source="another"),
                    report._replace(rows=report.rows[:-1]),
                    report._replace(
                        machine={**report.machine, "hostname": "another", "gpus": ["none"]}
                    ),  # is no matter
                    report,
                ]
                self.events.append(Joined(joined.member, Introduction(name, changed[joined.member.number])))

        crew = Mixed(plan, 7)
        outcome, told = run(plan, crew)

        assert outcome.exit_code == 0
        assert content(tmp_path).items() <= undisturbed.items()
        assert [member.number for member in crew.refused] == [0, 1, 2, 3, 4]
        words = (
            "NVIDIA H200",
            "'torch': '1.0'",
            "cpu: got another",
            "code: got another",
            "strategies, tasks or their data",
        )
        assert all(word in text for word, text in zip(words, told, strict=True))
        hosts = {segment.hostname for each in load_runs(tmp_path) for segment in each.manifest.segments}
        assert len(hosts) == 1

    def test_none_like_this_process(self, tmp_path: Path) -> None:
        """Workers with other code than the process that hands out are refused, with what differs."""
        plan = small(tmp_path)
        agenda = prepare_job(plan).agenda()
        ours = report_of(plan, agenda)

        assert check_here(plan, agenda, ours) == ours
        with pytest.raises(UsageError, match="code: got 000"):
            check_here(plan, agenda, ours._replace(source="000"))

    def test_none_can_begin(self, tmp_path: Path) -> None:
        """If no worker can load what the plan names, the first one's reason is the run's error."""
        crew = PlayedCrew(small(tmp_path), 0)
        member = Member(0, "node")
        crew.events = [Lost(member, "could not begin: no model", UsageError("no model"))]
        with pytest.raises(UsageError, match="no model"):
            gather(crew, lambda text: None)

        crew.events = [Lost(member, "could not begin: killed")]
        with pytest.raises(BenchError, match=r"no worker could begin.*killed"):
            gather(crew, lambda text: None)


class Unwritten:
    """A writer of a run that has nothing yet."""

    done: ClassVar[set[str]] = set()


class TestShards:
    @pytest.mark.parametrize("workers", [1, 2, 5])
    def test_chunks(self, tmp_path: Path, workers: int) -> None:
        """Chunks hold every item once, whole turns of every size, no more than a turn of all cells, ever fewer."""
        plan = small(tmp_path, batch_size=[1, 2, 4], limit=100)
        job = prepare_job(plan)
        cells: list[Any] = [Cell(row.asked, Unwritten()) for row in rows_of(plan, job.agenda())]  # type: ignore[arg-type]
        items = job.items["analytic-shuffle"]
        shards = Shards(cells, items)
        sizes, found, first = [], [], []
        while (chunk := shards.take(workers)) is not None:
            sizes.append(len(chunk.items))
            found += chunk.items
            batch = chunk.next()
            assert batch is not None
            first.append(batch.cell)

        assert found == items
        assert all(size % 8 == 0 for size in sizes[:-1]) and sizes == sorted(sizes, reverse=True)
        assert sizes[0] == 8 * max(1, min(len(cells), 100 // (2 * workers * 8))) and sizes[-1] == 4
        assert len({id(cell) for cell in first}) > 1
