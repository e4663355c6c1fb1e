"""Makes lm-eval's own object of a task, and asks it for prompts and grades."""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.tasks.data import Source, check, find, read_file

SHOTS_SEED = 1234  # lm-eval's for solved examples
SEEDS = (0, 1234)  # lm-eval's for random and numpy, which some tasks draw from when they read their items

Doc = dict[str, Any]


class Recorded(NamedTuple):
    """A program that lm-eval's metric was to run, and its tests."""

    code: str
    tests: str


class Programs(threading.local):
    """Takes the place of the metric `code_eval`: it keeps what it is to run, and runs nothing."""

    last: Recorded | None = None

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: object
    ) -> tuple[dict[str, float], dict[str, object]]:
        """Keep the first program; the scores mean nothing."""
        self.last = Recorded(predictions[0][0], references[0])
        return {f"pass@{n}": 0.0 for n in k}, {}


@dataclass(frozen=True)
class Loaded:
    """A task object of lm-eval, and its items. `programs` is there if its metric would run programs."""

    task: Any
    docs: Sequence[Doc]
    programs: Programs | None
    library: str

    @property
    def shots(self) -> int:
        """Solved examples in a prompt."""
        return int(self.task.config.num_fewshot or 0)

    @property
    def version(self) -> str:
        """What the task's file says of itself."""
        return str(self.task.VERSION)

    @property
    def generation(self) -> Mapping[str, Any]:
        """How texts are to be generated."""
        return self.task.config.generation_kwargs or {}

    @property
    def filters(self) -> list[str]:
        """Names of the filters; the first counts."""
        return [one.name for one in self.task._filters]  # no public way names them all

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics; the first counts."""
        return list(self.task.aggregation())

    def is_better_when_less(self, metric: str) -> bool:
        """Whether the task says of a metric that less of it is better."""
        return self.task.higher_is_better().get(metric) is False

    def prompts(self, *, chat: bool) -> list[tuple[str, str]]:
        """For each item, what is asked and what the answer begins with; with `chat`, all that is asked is one turn."""
        self.task.set_fewshot_seed(seed=SHOTS_SEED)  # its generator goes through the whole test set
        # A template that renders nothing gives back the turns.
        turns = {"apply_chat_template": True, "chat_template": lambda messages, **_: messages} if chat else {}
        with _templates_kept():
            made = [
                self.task.fewshot_context(
                    doc=doc, num_fewshot=self.shots, gen_prefix=self.task.doc_to_prefix(doc), **turns
                )
                for doc in self.docs
            ]
        return [_one_turn(messages) for messages in made] if chat else [(str(text), "") for text in made]

    def reference(self, doc: Doc) -> str:
        """A right answer, or what it is compared with."""
        target = self.task.doc_to_target(doc)
        if self.task.config.doc_to_choice is not None and isinstance(target, int):
            target = self.task.doc_to_choice(doc)[target]
        return str(target[0] if isinstance(target, list) and target else target)

    def grade(self, doc: Doc, text: str, chosen: str) -> tuple[str, dict[str, Any], Recorded | None]:
        """What a filter makes of a text, the metrics of that, and the program they would have run."""
        from lm_eval.api.instance import Instance

        instance = Instance("generate_until", doc, ("", {}), 0, metadata=(self.task.config.task, 0, 1))
        instance.resps = [text]
        next(one for one in self.task._filters if one.name == chosen).apply([instance])
        answer = instance.filtered_resps[chosen]
        if self.programs is not None:
            self.programs.last = None
        results = self.task.process_results(doc, [answer])
        shown = answer[0] if isinstance(answer, list | tuple) and answer else answer
        return str(shown), results, self.programs.last if self.programs else None


def load(name: str, path: Path, data_dir: str | None) -> Loaded:
    """The task of a name, from its file. Raises UsageError if it asks for no text, or cannot be had."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    with _as_in_lm_eval(path.parent) as programs:
        try:
            config = load_yaml(path)
            _require_texts(name, config)
            for key in ("tag", "group", "task_list"):  # they say where it belongs, not what it is
                config.pop(key, None)
            if data_dir is not None:
                config |= _local(name, config, data_dir)
            task = ConfigurableTask(config=config)
            docs = list(task.eval_docs)
        except BenchError:
            raise
        except Exception as error:
            raise UsageError(
                f"lm-eval:{name}: cannot be loaded ({type(error).__name__}: {error}); if its items cannot be reached, "
                f"put them into a folder as {name}_SPLIT.jsonl and name it with --data-dir"
            ) from error
    if task.config.unsafe_code and not programs:
        raise UsageError(f"lm-eval:{name}: runs programs by itself, expected by the metric code_eval; it is not safe")
    return Loaded(task, docs, programs[0] if programs else None, version("lm-eval"))


def _one_turn(messages: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """The text of all turns but the last one's, if that is the assistant's: it is what the answer begins with."""
    prefix = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    asked = messages[:-1] if prefix else messages
    return "".join(message["content"] for message in asked), prefix


def _require_texts(name: str, config: Mapping[str, Any]) -> None:
    kind = config.get("output_type", "generate_until")
    if "class" in config or kind != "generate_until":
        got = "a task with code of its own" if "class" in config else f"output_type {kind}"
        raise UsageError(f"lm-eval:{name}: got {got}, expected generate_until, whose answers are texts")
    if config.get("doc_to_image") or config.get("doc_to_audio"):
        raise UsageError(f"lm-eval:{name}: got pictures or sounds, expected texts only")
    if (repeats := config.get("repeats", 1)) != 1:
        raise UsageError(f"lm-eval:{name}: got {repeats} answers to an item, expected a task with one")


def _local(name: str, config: Mapping[str, Any], data_dir: str) -> dict[str, Any]:
    """What to change in a configuration so that its items come from the files of a folder."""
    import datasets

    splits = {key: config.get(key) for key in ("test_split", "validation_split", "training_split", "fewshot_split")}
    shots = dict(config.get("fewshot_config") or {})
    needed = {splits["test_split"] or splits["validation_split"]}
    if config.get("num_fewshot") and not shots.get("samples"):
        order = (splits["fewshot_split"], shots.get("split"), splits["training_split"], splits["validation_split"])
        needed.add(next(filter(None, order), splits["test_split"]))
    hub = str(config.get("dataset_path"))
    data = {}
    for split in sorted(filter(None, needed)):
        source = Source(f"{name}_{split}.jsonl", f"https://huggingface.co/datasets/{hub}", hub, (), {})
        data[split] = datasets.Dataset.from_list(check(read_file(find(source, data_dir)), {}))
    changes: dict[str, Any] = {key: None for key, split in splits.items() if split not in needed}
    if shots.get("split") not in needed:
        changes["fewshot_config"] = {**shots, "split": None} if shots else None
    return {**changes, "custom_dataset": lambda **_: datasets.DatasetDict(data), "dataset_kwargs": None}


@contextmanager
def _as_in_lm_eval(folder: Path) -> Iterator[list[Programs]]:
    """Load a task as lm-eval would, with its seeds, but with a `code_eval` that runs nothing; yields that if asked for.

    A folder's functions are loaded anew: those already loaded may hold another `code_eval`.
    """
    import numpy as np

    made: list[Programs] = []
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # what the tasks draw from
    level = logging.getLogger("lm_eval").level
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])  # noqa: NPY002
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that is used
    _forget(folder)
    try:
        if any("code_eval" in path.read_text("utf-8") for path in folder.glob("*.py")):
            with _code_eval(made):
                yield made
        else:
            yield made
    finally:
        _forget(folder)
        logging.getLogger("lm_eval").setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _code_eval(made: list[Programs]) -> Iterator[None]:
    import evaluate

    real = evaluate.load

    def load_metric(path: str, *args: object, **kwargs: object) -> object:
        if path != "code_eval":
            return real(path, *args, **kwargs)
        made.append(Programs())
        return made[-1]

    evaluate.load = load_metric
    try:
        yield
    finally:
        evaluate.load = real


@contextmanager
def _templates_kept() -> Iterator[None]:
    """Compile a task's templates once: lm-eval does it for every item and example, which is most of its time."""
    from lm_eval.utils import env

    env.from_string = cache(env.from_string)
    try:
        yield
    finally:
        del env.from_string


def _forget(folder: Path) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("lm_eval.tasks.") and Path(getattr(module, "__file__", None) or ".").parent == folder:
            del sys.modules[name]
