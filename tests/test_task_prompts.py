"""Prompts, against those that lm-eval's own task objects build from the same items."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import task_items
from lm_eval_reference import contexts, forbid_code_eval
from lm_eval_reference import task as lm_eval_task

from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import Task

SHOWN, FEW = 20, 8  # items of each task: real ones and invented ones

# LLaDA's template in all that matters here: it strips a turn's text, and a header follows whether asked for or not.
STRIPPING = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{{ '<|start|>assistant<|end|>\n\n' }}"
)
# Dream's: it keeps a turn's text as it is.
KEEPING = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

# Our task, lm-eval's for base and for instruct (of MATH's seven, one), and the files of test and train.
TASKS = [
    ("gsm8k", "gsm8k/gsm8k", "gsm8k/gsm8k", "gsm8k_test.jsonl", "gsm8k_train.jsonl"),
    ("math", "minerva_math/minerva_math_geometry", "minerva_math/minerva_math_geometry", "math_test.jsonl", None),
    ("math500", "minerva_math/minerva_math500", "minerva_math/minerva_math500", "math500.jsonl", None),
    ("humaneval", "humaneval/humaneval", "humaneval/humaneval_instruct", "HumanEval.jsonl", None),
    ("mbpp", "mbpp/mbpp", "mbpp/mbpp_instruct", "mbpp.jsonl", None),
]
CASES = [pytest.param(form, *task, id=f"{task[0]}-{form}") for task in TASKS for form in ("base", "instruct")]

Template = Callable[..., str]


@pytest.fixture(scope="session")
def templates() -> dict[str, Template]:
    """Chat templates as lm-eval's model of transformers applies them."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    def make(source: str) -> Template:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), chat_template=source)

        def apply(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        return apply

    return {"stripping": make(STRIPPING), "keeping": make(KEEPING)}


def rows_of(folder: str, name: str | None) -> list[dict[str, Any]]:
    """The items of a file, read without any of our code; none of no file."""
    if name is None:
        return []
    plain, packed = Path(folder) / name, Path(folder) / f"{name}.gz"
    text = plain.read_text("utf-8") if plain.is_file() else gzip.decompress(packed.read_bytes()).decode()
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [row for row in rows if name != "mbpp.jsonl" or 11 <= row["task_id"] <= 510]


def compare(
    task: Task, count: int, theirs: Callable[[Template | None], list[str]], templates: dict[str, Template]
) -> None:
    """Check the first items under every template."""
    items = list(task.items())[:count]
    if task.prompt_format == "plain":
        assert [item.prompt for item in items] == theirs(None)
        assert {item.prefix for item in items} == {""}
        return
    for name, template in templates.items():
        asked = [template([{"role": "user", "content": item.prompt}]) for item in items]
        # A template that strips what the assistant says strips what its answer begins with.
        begun = [item.prefix.strip() if name == "stripping" else item.prefix for item in items]
        assert [one + other for one, other in zip(asked, begun, strict=True)] == theirs(template)


@pytest.mark.parametrize(("form", "name", "base", "instruct", "test", "train"), CASES)
class TestAgainstLmEval:
    """The bytes that lm-eval 0.4.13 would send."""

    @pytest.fixture(autouse=True)
    def no_code_eval(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No program is run."""
        forbid_code_eval(monkeypatch)

    def test_invented_items(
        self, form: str, name: str, base: str, instruct: str, test: str, train: str | None,
        tmp_path: Path, templates: dict[str, Template],
    ) -> None:  # fmt: skip
        """Prompts of items with braces, odd line ends and blanks are lm-eval's, byte for byte."""
        folder = task_items.write_all(tmp_path)
        if name == "mbpp":  # its solved examples are items of the data, and lm-eval's are the real ones
            from lm_eval.tasks.mbpp.utils import list_fewshot_samples

            real = {row["task_id"]: row for row in list_fewshot_samples()}
            rows = [{**row, **real.get(row["task_id"], {})} for row in task_items.mbpp_rows()]
            task_items.write_lines(tmp_path / "mbpp.jsonl", rows)
        splits = {"test": rows_of(folder, test)[:FEW], "train": rows_of(folder, train)}
        theirs = lm_eval_task(instruct if form == "instruct" else base, splits)
        task = load_task(name, data_dir=tmp_path, chat=form == "instruct")
        compare(task, FEW, lambda chat: contexts(theirs, FEW, chat), templates)

    def test_real_items(
        self, form: str, name: str, base: str, instruct: str, test: str, train: str | None,
        templates: dict[str, Template],
    ) -> None:  # fmt: skip
        """Prompts of the real items are lm-eval's, byte for byte."""
        if name == "math":
            pytest.skip("the 5,000 items are not at hand; math500 has the same form")
        folder = task_items.data_dir()
        theirs = lm_eval_task(
            instruct if form == "instruct" else base, {"test": rows_of(folder, test), "train": rows_of(folder, train)}
        )
        task = load_task(name, data_dir=Path(folder), chat=form == "instruct")
        compare(task, SHOWN, lambda chat: contexts(theirs, SHOWN, chat), templates)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_the_form_chat_has_the_text_of_base(name: str, tmp_path: Path) -> None:
    """In the form chat the items are those of base, and go through the chat template."""
    task_items.write_all(tmp_path)
    base, chat = (load_task(f"{name}:form={form}", data_dir=tmp_path) for form in ("base", "chat"))
    assert base.items() == chat.items()
    assert (base.prompt_format, chat.prompt_format) == ("plain", "chat")


def test_mbpps_examples_are_lm_evals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The items 2, 3 and 4 of MBPP are the solved examples in lm-eval."""
    forbid_code_eval(monkeypatch)
    from lm_eval.tasks.mbpp.utils import list_fewshot_samples

    rows = [json.loads(line) for line in (Path(task_items.data_dir()) / "mbpp.jsonl").read_text("utf-8").splitlines()]
    for theirs in list_fewshot_samples():
        ours = rows[theirs["task_id"] - 1]
        assert {key: ours[key] for key in ("task_id", "text", "code", "test_list")} == {
            key: theirs[key] for key in ("task_id", "text", "code", "test_list")
        }


@pytest.mark.parametrize(("name", "most"), [("gsm8k", 50), ("math", 4), ("math500", 4), ("mbpp", 3)])
def test_fewer_solved_examples(name: str, most: int, tmp_path: Path) -> None:
    """Without examples a prompt is its own last part, and `shots` is what a record says."""
    task_items.write_all(tmp_path)
    none, one, all_ = (load_task(f"{name}:shots={n}", data_dir=tmp_path) for n in (0, 1, most))
    for bare, short, long in zip(none.items(), one.items(), all_.items(), strict=True):
        assert short.prompt.endswith(bare.prompt) and long.prompt.endswith(bare.prompt)
        assert len(bare.prompt) < len(short.prompt) < len(long.prompt)
    assert (none.few_shot, one.few_shot, all_.few_shot) == (0, 1, most)
    assert len({none.data_hash, one.data_hash, all_.data_hash}) == 3


def test_the_version_they_were_compared_with() -> None:
    """The comparisons above are with lm-eval 0.4.13 or later."""
    installed = tuple(int(part) for part in importlib.metadata.version("lm-eval").split(".")[:3])
    assert installed >= (0, 4, 13)
