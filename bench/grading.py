"""Grades answer texts: by the task itself, or by running the program it makes of them in the sandbox.

What is right is the task's affair, and what a program may do the sandbox's.
"""

from __future__ import annotations

from collections.abc import Iterable

from l2pd_bench import sandbox
from l2pd_bench.errors import PluginError
from l2pd_bench.sandbox import Sandbox
from l2pd_bench.tasks.base import Item, Program, Task, Verdict


class Grader:
    """Grades for the tasks of one run."""

    def __init__(self, tasks: Iterable[Task], *, level: str | None = None, unsafe: bool = False) -> None:
        """Choose the sandbox, if a task needs one: see `sandbox.choose`, which raises UsageError if there is none."""
        needed = any(needs_sandbox(task) for task in tasks)
        self.sandbox: Sandbox | None = sandbox.choose(level=level, unsafe=unsafe) if needed else None
        self._bare = sandbox.bare()

    def grade(self, task: Task, item: Item, text: str) -> Verdict:
        """The verdict on an answer text; PluginError for a task that breaks its contract."""
        verdict = task.grade(item, text)
        if isinstance(verdict, Program):
            verdict = self._run(task, verdict)
        if not 0.0 <= verdict.score <= 1.0:
            raise PluginError(f"task '{task.name}': graded {item.doc_id} {verdict.score}, expected a score from 0 to 1")
        return verdict

    def _run(self, task: Task, program: Program) -> Verdict:
        where = self._bare if program.is_harmless else self.sandbox
        if where is None:
            raise PluginError(
                f"task '{task.name}': has a program to run, expected `needs_sandbox = True` of such a task"
            )
        return Verdict(program.answer, float(where.run(program.code, program.tests).passed))


def needs_sandbox(task: Task) -> bool:
    """Whether a task's answers are programs that might do harm."""
    return bool(getattr(task, "needs_sandbox", False))
