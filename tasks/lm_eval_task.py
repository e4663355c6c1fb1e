"""`lm-eval:<name>`: any task of lm-eval whose answers are texts.

Prompts, solved examples, stop strings, filters and metrics are lm-eval's own, made by its
own task object. Programs are not run by its metric: the sandbox of the harness runs them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from l2pd_bench.errors import BenchError, UsageError, unknown
from l2pd_bench.tasks import common
from l2pd_bench.tasks.base import Item, Program, Verdict
from l2pd_bench.tasks.lm_eval_find import find_task, known_tasks
from l2pd_bench.tasks.lm_eval_load import Loaded, load

LENGTH, STEP = 256, 32  # of an answer where the task does not say, and what a length is rounded up to


@dataclass(frozen=True)
class LmEval:
    """Any task of lm-eval that asks for text: lm-eval:NAME, with lm-eval's prompts, filters and metrics.

    `filter` and `metric` are the task's first unless named. `data_dir` may hold the items
    as NAME_SPLIT.jsonl. The form instruct goes through the chat template, solved examples
    and all as one user turn.
    """

    name: ClassVar[str] = "lm-eval"  # of an instance, with its task behind it
    task: str
    form: str = "base"
    data_dir: str | None = None
    filter: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        common.require("form", self.form, common.FORMS)
        object.__setattr__(self, "name", f"lm-eval:{self.task}")
        if self._path is None:
            names = list(known_tasks())
            near = sorted(name for name in names if name.startswith(f"{self.task}_"))  # of a group, say
            near += difflib.get_close_matches(self.task, names, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(near[:2])} or {near[2]}?" if len(near) > 2 else ""
            raise UsageError(f"lm-eval: got '{self.task}', expected the name of one of its {len(names)} tasks{hint}")

    @property
    def gen_length(self) -> int:
        """What the task asks for, in whole blocks."""
        most = self._loaded.generation.get("max_gen_toks") or LENGTH
        return -(-int(most) // STEP) * STEP

    @property
    def stop(self) -> tuple[str, ...]:
        """See `Task.stop`."""
        until = self._loaded.generation.get("until") or ()
        return (until,) if isinstance(until, str) else tuple(until)

    @property
    def prompt_format(self) -> str:
        """See `Task.prompt_format`."""
        return common.prompt_format(self.form)

    @property
    def few_shot(self) -> int:
        """See `Task.few_shot`."""
        return self._loaded.shots

    @property
    def needs_sandbox(self) -> bool:
        """Whether the answers are programs."""
        return self._loaded.programs is not None

    @property
    def grading(self) -> str:
        """See `Task.grading`."""
        by = "tests run" if self.needs_sandbox else self._metric
        return f"{self._filter}, {by}, lm-eval {self._loaded.library}, version {self._loaded.version}"

    @cached_property
    def data_hash(self) -> str:
        """See `Task.data_hash`."""
        return common.hash_items(self.items())

    def items(self) -> Sequence[Item]:
        """The test split, or else the validation split; an item is named after its place in it."""
        return self._items

    def grade(self, item: Item, text: str) -> Verdict | Program:
        """Apply the filter and the metric to a text; a program is left to the harness."""
        return self._grade(self._docs[item.doc_id], text)

    def _grade(self, doc: dict[str, Any], text: str) -> Verdict | Program:
        answer, results, program = self._loaded.grade(doc, text, self._filter)
        if self._loaded.programs is not None:
            if program is None:
                raise UsageError(f"{self.name}: got no program from its metric, expected one to run")
            return Program(program.code, program.code, f"{program.tests}\n")
        if self._metric not in results:
            raise unknown(f"{self.name}: metric", self._metric, results)
        score = results[self._metric]
        try:
            value = float(score)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{self.name}: metric '{self._metric}' gives {score!r:.40} for an item, expected a number: it is one "
                f"of a whole test set; choose another with metric=..., of {', '.join(results)}"
            ) from error
        if not 0.0 <= value <= 1.0:
            raise UsageError(
                f"{self.name}: metric '{self._metric}' gives {value:g} for an item, expected 0 to 1; choose another "
                f"with metric=..., of {', '.join(results)}"
            )
        return Verdict(answer, value)

    @property
    def _path(self) -> Path | None:
        return find_task(self.task)

    @cached_property
    def _loaded(self) -> Loaded:
        assert self._path is not None, "checked when it was made"
        return load(self.task, self._path, self.data_dir)

    @property
    def _filter(self) -> str:
        names = self._loaded.filters
        if self.filter is not None and self.filter not in names:
            raise unknown(f"{self.name}: filter", self.filter, names)
        return self.filter or names[0]

    @property
    def _metric(self) -> str:
        metric = self.metric or self._loaded.metrics[0]
        if self._loaded.is_better_when_less(metric):
            raise UsageError(
                f"{self.name}: got the metric '{metric}', of which less is better, expected a score; choose another "
                f"with metric=..., of {', '.join(self._loaded.metrics)}"
            )
        return metric

    @cached_property
    def _docs(self) -> dict[str, dict[str, Any]]:
        return {f"{self.name}/{i}": doc for i, doc in enumerate(self._loaded.docs)}

    @cached_property
    def _items(self) -> list[Item]:
        self._try_to_grade(self._loaded.docs[0])
        items = []
        prompts = self._loaded.prompts(chat=self.form == "instruct")
        for (name, doc), (prompt, prefix) in zip(self._docs.items(), prompts, strict=True):
            data = json.loads(json.dumps(doc, default=str))  # for the hash: `grade` has the document itself
            items.append(Item(name, prompt, self._loaded.reference(doc), data, prefix))
        return items

    def _try_to_grade(self, doc: dict[str, Any]) -> None:
        """UsageError if the task cannot be graded, which is to be known before anything is decoded."""
        try:
            self._grade(doc, self._loaded.reference(doc))
        except BenchError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self.name}: cannot be graded here ({type(error).__name__}: {error}); a metric may need the network"
            ) from error
