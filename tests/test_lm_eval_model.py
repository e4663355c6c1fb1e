"""Our strategies as a model of lm-eval: its texts, its order, its scores are those of our own run."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from l2pd_bench.errors import UsageError
from l2pd_bench.plan import make_plan
from l2pd_bench.records import load_runs
from l2pd_bench.registry import load_task
from l2pd_bench.runner import execute as run_plan

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from l2pd_bench.lm_eval_model import L2pdLM

ITEMS = load_task("mini-math").items()[:5]


def evaluate(output: Path, *, chat: bool = True, **config: Any) -> dict[str, Any]:
    """Evaluate five of mini-math's items as a task of lm-eval, threshold 0.8."""
    import datasets

    def data(**_: Any) -> Any:
        rows = [{"question": i.prompt, "answer": i.reference.rpartition("#### ")[2]} for i in ITEMS]
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})

    number = {"function": "regex", "regex_pattern": "#### (-?[0-9]+)"}
    task = {
        **{"task": "five", "custom_dataset": data, "test_split": "test", "output_type": "generate_until"},
        **{"doc_to_text": "{{question}}", "doc_to_target": "{{answer}}"},
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 100},
        "filter_list": [{"name": "number", "filter": [number, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **config,
    }
    found: dict[str, Any] = simple_evaluate(
        model="l2pd",
        model_args={"strategy": "threshold:tau=0.8", "output": str(output), "eot": "stop", "device": "cpu"},
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        batch_size=2,
    )
    return found


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One evaluation in the chat template, and where its records are."""
    output = tmp_path_factory.mktemp("lm-eval")
    return evaluate(output), output


def test_same_as_our_own_run(evaluated: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """lm-eval sees the texts that our own run of the same prompts records, in order, and scores them alike."""
    found, _ = evaluated
    plan = {"strategy": ["threshold:tau=0.8"], "task": ["mini-math"], "eot": ["stop"], "batch_size": [2], "limit": 5}
    run_plan(make_plan(None, {**plan, "device": "cpu", "output": tmp_path}), command="test")
    (run,) = load_runs(tmp_path)

    assert [s["resps"][0][0] for s in found["samples"]["five"]] == [s.text for s in run.samples]
    assert found["results"]["five"]["exact_match,number"] == sum(s.score for s in run.samples) / 5 > 0


def test_record(evaluated: tuple[dict[str, Any], Path]) -> None:
    """Our record lies beside lm-eval's results, which name it; its setting is what was decoded, and it is ungraded."""
    found, output = evaluated
    (run,) = load_runs(output)
    (told,) = found["config"]["l2pd"]

    assert (told["folder"], told["run_id"]) == (str(run.folder), run.manifest.run_id)
    assert told["strategy"] == "threshold:tau=0.8"
    setting = {"task": "lm-eval:five", "prompt_format": "chat", "gen_length": 128, "eot": "stop", "batch_size": 2}
    assert setting.items() <= run.manifest.protocol.items()
    assert not run.manifest.graded and run.manifest.status == "finished"
    assert [s.doc_id for s in run.samples] == [f"five/{i}/0" for i in range(5)]


def test_repeated(evaluated: tuple[dict[str, Any], Path]) -> None:
    """The same evaluation again decodes nothing and says the same."""
    found, output = evaluated
    (before,) = output.rglob("samples.jsonl")
    content = before.read_bytes()

    assert evaluate(output)["results"] == found["results"]
    assert before.read_bytes() == content


def test_without_a_template(tmp_path: Path) -> None:
    """Without the chat template the context is given as it is, which is another setting."""
    evaluate(tmp_path, chat=False, generation_kwargs={"until": [], "max_gen_toks": 32})
    (run,) = load_runs(tmp_path)

    assert (run.manifest.protocol["prompt_format"], run.manifest.protocol["gen_length"]) == ("plain", 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> L2pdLM:
    """The model by itself."""
    return L2pdLM(strategy="fixed-step:k=8;order=margin", output=str(tmp_path_factory.mktemp("model")), device="cpu")


def test_order_and_settings(model: L2pdLM) -> None:
    """Requests of two tasks and lengths, mixed, are answered in their order, each cut at its own stop strings."""
    stops = {"a": ["####"], "b": []}
    asked = []
    for i, item in enumerate(ITEMS[:2]):
        context = model.apply_chat_template([{"role": "user", "content": item.prompt}])
        for task, until in stops.items():
            arguments = (context, {"until": until, "max_gen_toks": 64})
            asked.append(Instance("generate_until", {}, arguments, 0, (task, i, 1)))
    a0, b0, a1, b1 = model.generate_until(asked)

    assert b0 != b1 and (b0.partition("####")[0], b1.partition("####")[0]) == (a0, a1)
    assert a0 != b0


def test_loglikelihood(model: L2pdLM) -> None:
    """A task that asks for log-likelihoods is told why there are none."""
    for ask in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(UsageError, match="expected generate_until tasks only"):
            ask([])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": "auto"}, "batch_size: got 'auto', expected a whole number"),
        ({"strategy": "oracle"}, "needs the decode of fixed-step"),
        ({"strategy": "treshold"}, "did you mean 'threshold'"),
        ({"pretrained": "minni"}, "did you mean 'mini'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    """Arguments that cannot be meant are refused before anything is decoded."""
    with pytest.raises(UsageError, match=said):
        L2pdLM(**arguments)


def test_entry_point() -> None:
    """lm-eval releases that look for entry points find the model."""
    (point,) = importlib.metadata.entry_points(group="lm_eval.models", name="l2pd")
    assert point.load() is L2pdLM
