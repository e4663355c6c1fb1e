"""GSM8K: what is read from a text, and when it counts as right."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import lm_eval_reference
import pytest
import task_items

from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.gsm8k import FILTERS, Gsm8k

PIECES = (
    *("#### ", "####", "### ", "\n", " ", "$", ",", ".", "-", "- ", "The answer is ", "\\$", "٣"),
    *(
        "7",
        "18",
        "1,234",
        "1,234.50",
        "$5",
        "-3",
        "3.",
        "0.5",
        ".",
        "..",
        "$$",
        "1/2",
        "7%",
        "x=4",
        "18.",
        "#### 18",
        "#### $18",
    ),
)


def varied_texts(count: int, seed: int) -> list[str]:
    """Texts of numbers and what stands around numbers, with and without an answer."""
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 9))) for _ in range(count)]


def item(answer: str) -> Item:
    """A problem whose worked answer ends in this number."""
    return Item("gsm8k/0", "?", f"It is <<1+1=2>>2.\n#### {answer}")


@pytest.mark.parametrize(
    ("chosen", "text", "answer"),
    [
        ("strict-match", " 3 and 4.\n#### 18", "18"),
        ("strict-match", "#### 18\n\nQuestion: #### 19", "18"),
        ("strict-match", "the answer is 18", ""),
        ("strict-match", "####18", ""),
        ("strict-match", "#### $18", ""),
        ("flexible-extract", "the answer is 18", "18"),
        ("flexible-extract", "#### 18, not 19.", "19."),
        ("flexible-extract", "it costs $1,800.", "$1,800."),
        ("flexible-extract", "none", ""),
    ],
)
def test_what_is_read(chosen: str, text: str, answer: str) -> None:
    """strict-match takes the first number after ####, flexible-extract the last one."""
    assert Gsm8k(filter=chosen).grade(item("18"), text).answer == answer


@pytest.mark.parametrize(("text", "score"), [("1,800", 1), ("1800.", 1), ("1800.0", 0), ("-1800", 0), ("180", 0)])
def test_what_counts_as_equal(text: str, score: float) -> None:
    """Commas and a last full stop do not count; everything else does."""
    assert Gsm8k().grade(item("1,800"), f"#### {text}") == Verdict(text, score)


@pytest.mark.parametrize("chosen", FILTERS)
def test_filters_are_lm_evals(chosen: str) -> None:
    """On 500 varied texts each filter reads and judges as lm-eval's classes do with lm-eval's own settings."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters import build_filter_ensemble

    config = lm_eval_reference.config("gsm8k/gsm8k")
    (steps,) = (entry["filter"] for entry in config["filter_list"] if entry["name"] == chosen)
    parts = [(step["function"], {key: step[key] for key in step if key != "function"}) for step in steps]
    read = build_filter_ensemble(chosen, parts).filters[0]()
    compare = {
        key: value
        for key, value in config["metric_list"][0].items()
        if key not in ("metric", "aggregation", "higher_is_better")
    }
    task, right = Gsm8k(filter=chosen), 0
    for text in varied_texts(500, seed=3):
        problem = item("18")
        theirs = read.apply([[text]], [{}])[0][0]
        score = exact_match_hf_evaluate([theirs], [problem.reference], **compare)["exact_match"]
        verdict = task.grade(problem, text)
        assert verdict == Verdict("" if theirs == "[invalid]" else theirs, float(score)), text
        right += verdict.correct
    assert right >= 10  # else the texts say little


def test_stop_strings_are_lm_evals() -> None:
    """The stop strings are those of lm-eval's own file."""
    assert Gsm8k().stop == tuple(lm_eval_reference.config("gsm8k/gsm8k")["generation_kwargs"]["until"])


@pytest.mark.parametrize("chosen", FILTERS)
class TestRealItems:
    """All 1,319 of the test split."""

    def test_gold_answers(self, chosen: str) -> None:
        """Every worked answer is right by its own grader."""
        task = Gsm8k(data_dir=task_items.data_dir(), filter=chosen)
        assert len(task.items()) == 1319
        assert [item.doc_id for item in task.items() if not task.grade(item, item.reference).correct] == []

    def test_answers_of_other_items(self, chosen: str) -> None:
        """Shuffled answers, never an item's own, are right where two items have the same number, about 1 in 97."""
        task = Gsm8k(data_dir=task_items.data_dir(), filter=chosen)
        items = task.items()
        numbers = [item.reference.rpartition("#### ")[2].replace(",", "") for item in items]
        count = len(items)
        chance = sum(n * (n - 1) for n in Counter(numbers).values()) / (count * (count - 1))
        assert chance == pytest.approx(0.0103, abs=1e-4)

        order = random.Random(0).sample(range(count), count)
        pairs = list(zip(order, order[1:] + order[:1], strict=True))  # one cycle: no item keeps its own
        right = sum(task.grade(items[i], items[j].reference).correct for i, j in pairs)
        assert right == sum(numbers[i] == numbers[j] for i, j in pairs)
        assert abs(right / count - chance) < 3 * (chance / count) ** 0.5


def test_items_and_their_names(tmp_path: Path) -> None:
    """Items are named after their lines, end in their own question, and have five examples of the training split."""
    task_items.write_all(tmp_path)
    items = Gsm8k(data_dir=str(tmp_path)).items()
    assert [item.doc_id for item in items] == [f"gsm8k/{i}" for i in range(30)]
    assert {item.prompt.count("Question: ") for item in items} == {6}
    assert len({item.prompt.partition("\nAnswer:")[0] for item in items}) > 15  # drawn anew for each


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gsm8k:filter=strict", "filter: got 'strict', expected one of flexible-extract, strict-match"),
        ("gsm8k:form=chat", "form: got 'chat', expected one of base, instruct"),
        ("gsm8k:shots=-1", "shots: got -1, expected 0 or more"),
        ("gsm8k:5", "got 'gsm8k:5', expected gsm8k without ':5'"),
    ],
)
def test_wrong_parameters(spec: str, message: str) -> None:
    """A value that nobody knows is a usage error that names those that are known."""
    with pytest.raises(UsageError) as caught:
        load_task(spec)
    assert message in str(caught.value)


def test_too_many_shots(tmp_path: Path) -> None:
    """More solved examples than there are is a usage error."""
    task_items.write_all(tmp_path)
    with pytest.raises(UsageError, match="shots: got 51, expected no more than the training split has, 50"):
        Gsm8k(data_dir=str(tmp_path), shots=51).items()


def test_answers_without_a_number(tmp_path: Path) -> None:
    """Items without GSM8K's `#### number` are refused: no text could be right."""
    rows = [{"question": "How many?", "answer": "18"}]
    task_items.write_lines(tmp_path / "gsm8k_test.jsonl", rows)
    with pytest.raises(UsageError, match="gsm8k/0: got an answer without '#### number'"):
        Gsm8k(data_dir=str(tmp_path), shots=0).items()
