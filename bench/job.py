"""From a plan to what can be decoded: strategies, tasks, items, model, prompts; or why it cannot be.

Loads and checks; decodes nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from l2pd_bench.decode_settings import DecodeSettings, check_frontier
from l2pd_bench.engine import prepare
from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.grading import Grader
from l2pd_bench.hosts.base import Host
from l2pd_bench.items import choose_items
from l2pd_bench.measure import environment
from l2pd_bench.plan import Plan
from l2pd_bench.protocol import HostFacts, facts_of
from l2pd_bench.registry import StrategySpec, load_host, load_strategy, load_task
from l2pd_bench.schema import StrategyRecord
from l2pd_bench.strategies.base import Strategy
from l2pd_bench.tasks.base import Item, Task
from l2pd_bench.watch import require_terminal

Prompts = dict[tuple[str, str], list[int]]  # by task and doc_id, as ids are a task's own


@dataclass(frozen=True)
class Agenda:
    """What a run is to record, told without its model; `items` are of the tasks by name."""

    facts: HostFacts
    machine: dict[str, Any]  # the environment that the records name
    strategies: list[tuple[Strategy, StrategySpec]]
    tasks: list[Task]
    items: dict[str, list[Item]]


@dataclass(frozen=True)
class Job:
    """What a plan comes to, once everything is loaded: `items` and `prompts` are of the tasks by name."""

    host: Host
    strategies: list[tuple[Strategy, StrategySpec]]
    tasks: list[Task]
    items: dict[str, list[Item]]
    prompts: Prompts
    grader: Grader | None

    def agenda(self) -> Agenda:
        """What is to be recorded of it, on this machine."""
        machine = environment()
        if self.grader is not None and self.grader.sandbox is not None:
            machine["sandbox"] = self.grader.sandbox.level
        return Agenda(facts_of(self.host), machine, self.strategies, self.tasks, self.items)


class Wanted(NamedTuple):
    """A strategy, and a setting to decode under with it."""

    strategy: Strategy
    spec: StrategySpec
    settings: DecodeSettings
    batch_size: int


def prepare_job(plan: Plan) -> Job:
    """Load what the plan names, the model last; raises UsageError for what cannot be decoded."""
    if plan.watch:
        require_terminal()
    strategies, tasks, items = load_all_but_host(plan)
    wanted = [each for task in tasks for each in wanted_of(plan, task, strategies)]
    host = load_host(plan.model, **plan.host_options)  # last, as it may take minutes
    if host.is_chat:
        tasks, items = load_tasks(plan, chat=True)
    _prepare(host, wanted)
    grader = Grader(tasks, level=plan.sandbox, unsafe=plan.unsafe_code) if host.is_trained else None
    prompts = {
        (task.name, i.doc_id): host.encode(i.prompt, i.prefix, chat=task.prompt_format == "chat")
        for task in tasks
        for i in items[task.name]
    }
    return Job(host, strategies, tasks, items, prompts, grader)


class AllButHost(NamedTuple):
    """What a plan names, but for its model."""

    strategies: list[tuple[Strategy, StrategySpec]]
    tasks: list[Task]
    items: dict[str, list[Item]]


def load_all_but_host(plan: Plan) -> AllButHost:
    """The strategies, and the tasks as a host that does not chat is asked them; UsageError for what cannot be."""
    strategies = [load_strategy(text) for text in plan.strategy]
    _refuse_twice("strategy", plan.strategy, [spec.spec for _, spec in strategies])
    tasks, items = load_tasks(plan, chat=False)
    wanted = [each for task in tasks for each in wanted_of(plan, task, strategies)]
    _refuse_blind(wanted)
    for strategy, _, settings, batch_size in wanted:
        check_frontier(strategy, settings, batch_size)
    return AllButHost(strategies, tasks, items)


def load_tasks(plan: Plan, *, chat: bool) -> tuple[list[Task], dict[str, list[Item]]]:
    """The tasks as a host that chats, or one that does not, is asked them; and the items to decode."""
    tasks = [load_task(text, data_dir=plan.data_dir, chat=chat) for text in plan.task]
    _refuse_twice("task", plan.task, [task.name for task in tasks])
    chosen = {task.name: choose_items(task, limit=plan.limit, ids=plan.ids, subset=plan.subset) for task in tasks}
    return tasks, chosen


def wanted_of(plan: Plan, task: Task, strategies: Sequence[tuple[Strategy, StrategySpec]]) -> Iterator[Wanted]:
    """What is to be decoded of a task; `strategies` are the plan's, loaded."""
    loaded = dict(zip(plan.strategy, strategies, strict=True))
    for at, names in plan.settings(task.gen_length).items():
        settings = DecodeSettings(at.gen_length, plan.block_length, at.cache, at.eot, plan.temperature)
        for name in names:
            yield Wanted(*loaded[name], settings, at.batch_size)


def told(strategy: Strategy, spec: StrategySpec) -> StrategyRecord:
    """What every record says of a strategy."""
    return StrategyRecord(**{**asdict(spec), "params": dict(spec.params)}, deployable=not strategy.uses_reference)


def _refuse_blind(wanted: Sequence[Wanted]) -> None:
    """Raise UsageError for a strategy that is shown the baseline's decode, without the baseline in its setting."""
    known = {(w.settings, w.batch_size) for w in wanted if told(w.strategy, w.spec).is_baseline}
    for strategy, spec, settings, batch_size in wanted:
        if strategy.uses_reference and (settings, batch_size) not in known:
            raise UsageError(
                f"strategy '{spec.spec}': got no decode of fixed-step to go by, which it needs in the same "
                "setting; add --strategy fixed-step (what is recorded is not decoded again)"
            )


def _prepare(host: Host, wanted: Sequence[Wanted]) -> None:
    """Load the strategies' own models; a BenchError for one that is missing, or is for another model or setting."""
    for strategy, settings in {(w.spec.spec, w.settings): (w.strategy, w.settings) for w in wanted}.values():
        try:
            prepare(host, strategy, settings)
        except BenchError:
            raise
        except Exception:  # noqa: BLE001  # a plugin's own bug: it raises again when decoding, and ends its row
            pass


def _refuse_twice(what: str, written: Sequence[str], specs: Sequence[str]) -> None:
    for i, spec in enumerate(specs):
        if spec in specs[:i]:
            raise UsageError(f"{what}: '{written[specs.index(spec)]}' and '{written[i]}' are both '{spec}'; give one")
