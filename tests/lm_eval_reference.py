"""lm-eval's own task objects, made without any of our code: what prompts and filters are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]


def forbid_code_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lm-eval's code tasks load without the network, which they need for a metric that runs programs."""
    import evaluate

    class Metric:
        def compute(self, **_: object) -> tuple[dict[str, float], dict[str, object]]:
            return {"pass@1": 0.0}, {}

    monkeypatch.setattr(evaluate, "load", lambda *_, **__: Metric())


def config(name: str) -> Row:
    """A task's file, such as "gsm8k/gsm8k"."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    found: Row = load_yaml(Path(lm_eval.tasks.__file__).parent / f"{name}.yaml")
    found.pop("tag", None)
    return found


def task(name: str, splits: Mapping[str, Sequence[Row]], **changes: object) -> Any:
    """A task object with these items."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    data = datasets.DatasetDict({split: datasets.Dataset.from_list(list(rows)) for split, rows in splits.items()})
    return ConfigurableTask(config={**config(name), "custom_dataset": lambda **_: data, **changes})


def contexts(made: Any, count: int, chat: Callable[..., str] | None = None) -> list[str]:
    """What lm-eval would send for the first items, with the seed of its examples."""
    made.set_fewshot_seed(seed=1234)
    made.build_all_requests(limit=count, apply_chat_template=chat is not None, chat_template=chat)
    return [instance.args[0] for instance in made.instances]
