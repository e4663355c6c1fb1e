"""`--executor ray`: a crew of workers, one on each device of a ray cluster, here or elsewhere.

Without an address a cluster of this machine alone is started, quietly, and stopped again.
A worker that dies is replaced where there is room, and nodes may come and go. What the
workers are asked, and who records it, is not known here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import current_thread, main_thread
from time import monotonic, sleep
from typing import Any

from rich.console import Console

from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.job import Agenda, load_all_but_host, load_tasks
from l2pd_bench.plan import Plan
from l2pd_bench.remote import RemoteWorker, check_here
from l2pd_bench.sharded_executor import Answered, Event, Joined, Lost, Member, ShardedExecutor, commonest, gather
from l2pd_bench.worker import Turn

PLACING_S = 120.0  # after which a worker that has got no device is no longer waited for
STORE_BYTES = 80_000_000  # little is handed over: the smallest that ray allows is 75 MB
SETTINGS = {  # of ray's own processes, where it is told nothing else
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # on a machine that is busy
    "RAY_worker_niceness": "0",  # by default all else goes before a worker: no way to time anything
}
PLACING, PREPARING, READY, BUSY = "placing", "preparing", "ready", "busy"


def ray_executor(plan: Plan, crew: RayCrew | None = None) -> ShardedExecutor:
    """Workers for a plan, ready; UsageError or BenchError, with the reason, if there can be none."""
    strategies, tasks, items = load_all_but_host(plan)  # what is wrong with these is known before anything is started

    def tell(text: str) -> None:
        Console(stderr=True).print(f"note: {text}", style="yellow", markup=False, soft_wrap=True)

    crew = crew or RayCrew(plan)
    try:
        members = gather(crew, tell)
        theirs = commonest(members)
        if theirs.facts.is_chat:
            tasks, items = load_tasks(plan, chat=True)
        agenda = Agenda(theirs.facts, theirs.machine, strategies, tasks, items)
        return ShardedExecutor(crew, agenda, check_here(plan, agenda, theirs), members, tell)
    except BaseException:
        crew.close()
        raise


@dataclass
class _Actor:
    handle: Any
    node: str
    stage: str
    ref: Any  # of the call under way
    since: float


class RayCrew:
    """See `sharded_executor.Crew`: an actor for each GPU of the cluster, or `workers` on its processors."""

    def __init__(self, plan: Plan) -> None:
        """Start ray, or join what is at the plan's address."""
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._folder = _start(plan.address)
        try:
            self._device = _device(plan)
            self._most = plan.workers
        except BaseException:
            self.close()
            raise
        self._plan = replace(plan, device="cuda" if self._device == "GPU" else "cpu")
        self._actors: dict[Member, _Actor] = {}
        self._refused: Counter[str] = Counter()  # by node
        self._begun = 0
        self._looked = 0.0

    def poll(self, timeout_s: float) -> list[Event]:
        """See `Crew.poll`."""
        import ray

        self._grow()
        under_way = {actor.ref: member for member, actor in self._actors.items() if actor.ref is not None}
        if not under_way:
            sleep(timeout_s)
            return []
        ray.wait(list(under_way), timeout=timeout_s)
        ready, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=0)
        return [event for ref in ready if (event := self._come_of(under_way[ref])) is not None]

    def starting(self) -> int:
        """See `Crew.starting`."""
        recent = monotonic() - PLACING_S
        return sum(a.stage == PREPARING or (a.stage == PLACING and a.since > recent) for a in self._actors.values())

    def ask(self, member: Member, key: Hashable, doc_ids: Sequence[str], references: list[list[int]] | None) -> None:
        """See `Crew.ask`."""
        actor = self._actors[member]
        actor.stage, actor.ref = BUSY, actor.handle.decode.remote(key, list(doc_ids), references)

    def refuse(self, member: Member) -> None:
        """See `Crew.refuse`."""
        import ray

        actor = self._actors.pop(member)
        self._refused[actor.node] += 1
        ray.kill(actor.handle)

    def foreign(self, member: Member) -> list[str]:
        """See `Crew.foreign`; a worker that has died meanwhile sees nothing."""
        import ray

        try:
            found: list[str] = ray.get(self._actors[member].handle.foreign.remote())
        except ray.exceptions.RayActorError:
            return []
        return found

    def close(self) -> None:
        """See `Crew.close`."""
        import ray

        ray.shutdown()  # ends this run's actors, too
        ray._private.worker._worker_logs_enabled = True
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)  # ray has put its own there
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _come_of(self, member: Member) -> Event | None:
        """What a call that has ended means."""
        import ray

        actor = self._actors[member]
        ref, actor.ref = actor.ref, None
        try:
            result = ray.get(ref)
        except ray.exceptions.RayTaskError as failure:
            if actor.stage == BUSY:
                actor.stage = READY  # what strategies and tasks raise comes as a turn; this is something else
                return Answered(member, Turn([], error=f"a worker failed: {failure.cause!r}"))
            self.refuse(member)
            return _refusal(member, failure.cause)
        except ray.exceptions.RayError as failure:
            began = actor.stage in (READY, BUSY)
            if not began and self._is_up(actor.node):
                self._refused[actor.node] += 1  # it would happen again
            del self._actors[member]
            return Lost(member, f"{'died' if began else 'could not begin'}: {_told(failure)}")
        if actor.stage == PLACING:
            actor.stage, actor.ref = PREPARING, actor.handle.prepare.remote(self._plan, str(Path.cwd()))
            return None
        was, actor.stage = actor.stage, READY
        return Joined(member, result) if was == PREPARING else Answered(member, result)

    def _grow(self) -> None:
        """Begin a worker on every device that has none, now and then."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if monotonic() - self._looked < 1.0:
            return
        self._looked = monotonic()
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        taken = Counter(actor.node for actor in self._actors.values())
        while self._most is None or len(self._actors) < self._most:
            room = {i: _devices(node, self._device) - taken[i] - self._refused[i] for i, node in nodes.items()}
            node = max(room, key=lambda i: (room[i], i), default=None)
            if node is None or room[node] < 1:
                return
            taken[node] += 1
            make: Any = ray.remote(RemoteWorker)
            handle = make.options(
                num_cpus=1,
                num_gpus=int(self._device == "GPU"),
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote()
            member = Member(self._begun, nodes[node]["NodeManagerHostname"])
            self._actors[member] = _Actor(handle, node, PLACING, handle.arrive.remote(), monotonic())
            self._begun += 1

    def _is_up(self, node: str) -> bool:
        import ray

        return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def _start(address: str | None) -> Path | None:
    """Join a cluster, or start one in a folder of its own, which is returned."""
    if find_spec("ray") is None:
        raise UsageError(
            'executor: got ray, which is not installed; pip install "l2pd-bench[ray]", or use --executor local'
        )
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        raise UsageError("executor: this process has used ray already; call ray.shutdown() before")
    ray._private.worker._worker_logs_enabled = False  # else it tells of every death on stdout, where the board goes
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        host, _, port = address.rpartition(":")
        try:
            if host and port.isdecimal():  # ray itself tries for more than a minute
                socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"address: got '{address}', where no cluster answers ({_told(error)}); start one with `ray start "
                "--head`, or leave it out to use this machine alone"
            ) from error
        return None
    folder = Path(tempfile.mkdtemp(prefix="l2pd-", dir="/tmp"))  # ray's sockets need a short path
    try:
        ray.init(
            address="local",
            num_cpus=_cores(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _temp_dir=str(folder),
            **quiet,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(plan: Plan) -> str:
    """What a worker takes up, in ray's word; UsageError if the cluster has too little of it."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    gpus, processors = (sum(_devices(node, what) for node in nodes) for what in ("GPU", "CPU"))
    if plan.device == "cuda" and not gpus:
        raise UsageError("device: got cuda, and the cluster has no GPU; expected one in it, or --device cpu")
    if plan.device != "cpu" and gpus:
        return "GPU"
    if plan.workers is None:
        raise UsageError(
            "workers: got none, and there is no GPU to count; expected --workers N, at most one for each core "
            f"({processors} here)"
        )
    if plan.address is None and plan.workers > processors:
        raise UsageError(
            f"workers: got {plan.workers}, expected at most {processors}, the cores: on one core two slow each other"
        )
    return "CPU"


def _devices(node: dict[str, Any], what: str) -> int:
    return int(node["Resources"].get(what, 0))


def _refusal(member: Member, cause: BaseException) -> Lost:
    """A worker that raised while it loaded, as on a node without the model."""
    told = str(cause) if isinstance(cause, BenchError) else f"{type(cause).__name__}: {cause}"
    return Lost(member, f"could not begin: {told}", cause if isinstance(cause, BenchError) else None)


def _told(error: BaseException) -> str:
    """The reason in ray's many lines: the last one that is an error's, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Error: " in line and not line.startswith("ray")]
    return (causes or lines or [type(error).__name__])[-1 if causes else 0][:300]
