"""Item files: where they are looked for, and what is said of those that will not do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import task_items

from l2pd_bench.errors import UsageError
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.data import Source, read

SOURCE = Source(
    "toys.jsonl",
    "https://example.org/toys",
    "someone/toys",
    (("main", "prompt"), ("main", "test")),
    {"name": str, "number": int, "tests": list},
    "number",
)
GOOD = [{"name": "a", "number": 1, "tests": ["x"]}, {"name": "b\u2028c", "number": 2, "tests": [], "more": None}]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_good_file(tmp_path: Path, packed: bool) -> None:
    """A file's items are read in its order, packed or not, whatever else they hold; empty lines do not count."""
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in GOOD) + "\n\n"
    if packed:
        (tmp_path / "toys.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "toys.jsonl").write_text(text, "utf-8")
    assert read(SOURCE, str(tmp_path)) == GOOD


BAD = [
    ("no lines", "", "got no item at all, expected some with name, number, tests"),
    ("blank lines", "\n\n", "got no item at all"),
    ("no JSON", f"{json.dumps(GOOD[0])}\n{{oops", "toys.jsonl, line 2: got no JSON"),
    ("cut off", json.dumps(GOOD[0])[:-5], "toys.jsonl, line 1: got no JSON"),
    ("no object", "[1, 2]", "line 1: got [1, 2], expected an object with name, number, tests"),
    ("no field", '{"name": "a", "number": 1}', "line 1: got no 'tests', expected it to be a list of texts"),
    ("a wrong type", '{"name": 5, "number": 1, "tests": []}', "line 1: name: got 5, expected text"),
    ("null", '{"name": null, "number": 1, "tests": []}', "line 1: name: got None, expected text"),
    ("a number as text", '{"name": "a", "number": "1", "tests": []}', "number: got '1', expected a whole number"),
    ("true as number", '{"name": "a", "number": true, "tests": []}', "number: got True, expected a whole number"),
    ("a list of numbers", '{"name": "a", "number": 1, "tests": [1]}', "tests: got [1], expected a list of texts"),
    ("a list as text", '{"name": ["a"], "number": 1, "tests": []}', "name: got ['a'], expected text"),
    ("a long value", f'{{"name": {[1] * 99}, "number": 1, "tests": []}}', "1, ..., expected text"),
    ("one twice", f"{json.dumps(GOOD[0])}\n" * 2, "line 2: got number 1, which "),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    """What is wrong with a file is said with its name, the line and the field, as wrong usage."""
    (tmp_path / "toys.jsonl").write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        read(SOURCE, str(tmp_path))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b'{"name": "a"}')[:-9]], ids=["none", "torn"])
def test_a_file_that_cannot_be_unpacked(content: bytes, tmp_path: Path) -> None:
    """A packed file that is none, or is cut off, is named."""
    (tmp_path / "toys.jsonl.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"toys\.jsonl\.gz', which cannot be read"):
        read(SOURCE, str(tmp_path))


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    """A file that is not UTF-8 is named."""
    (tmp_path / "toys.jsonl").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(UsageError, match=r"toys\.jsonl', which cannot be read"):
        read(SOURCE, str(tmp_path))


def test_a_missing_folder(tmp_path: Path) -> None:
    """A folder that does not exist is named, with the file it should hold."""
    with pytest.raises(UsageError, match=r"--data-dir: got '.*nowhere', which is no folder; .* holds toys.jsonl"):
        read(SOURCE, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "file", "url"),
    [
        ("gsm8k", "gsm8k_test.jsonl", "https://github.com/openai/grade-school-math"),
        ("math", "math_test.jsonl", "https://huggingface.co/datasets/EleutherAI/hendrycks_math"),
        ("math500", "math500.jsonl", "https://huggingface.co/datasets/HuggingFaceH4/MATH-500"),
        ("humaneval", "HumanEval.jsonl", "https://github.com/openai/human-eval"),
        ("mbpp", "mbpp.jsonl", "https://github.com/google-research/google-research/tree/master/mbpp"),
    ],
)
def test_a_missing_file(name: str, file: str, url: str, tmp_path: Path) -> None:
    """A task whose file is missing says which, in which folder, and where to get it."""
    with pytest.raises(UsageError) as caught:
        load_task(name, data_dir=tmp_path).items()
    assert f"--data-dir: got '{tmp_path}', which has no {file}" in str(caught.value)
    assert url in str(caught.value)


def test_the_examples_file_is_needed_for_examples_only(tmp_path: Path) -> None:
    """GSM8K asks for the training split where it takes examples from it, and not else."""
    task_items.write_lines(tmp_path / "gsm8k_test.jsonl", task_items.gsm8k_rows(3, seed=0))
    assert len(load_task("gsm8k:shots=0", data_dir=tmp_path).items()) == 3
    with pytest.raises(UsageError, match=r"has no gsm8k_train\.jsonl"):
        load_task("gsm8k", data_dir=tmp_path).items()


class TestHub:
    """Without a folder."""

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
        """Set what `datasets.load_dataset` does."""
        import datasets

        return lambda load: monkeypatch.setattr(datasets, "load_dataset", load)

    def test_its_parts(self, hub: Callable[[Callable[..., Any]], None]) -> None:
        """The items of all parts follow one another."""
        asked = []

        def load(path: str, config: str, split: str) -> list[dict[str, Any]]:
            asked.append((path, config, split))
            return [GOOD[len(asked) - 1]]

        hub(load)
        assert read(SOURCE, None) == GOOD
        assert asked == [("someone/toys", "main", "prompt"), ("someone/toys", "main", "test")]

    def test_out_of_reach(self, hub: Callable[[Callable[..., Any]], None]) -> None:
        """Without a network, the error says which file to put where."""

        def load(*_: object, **__: object) -> None:
            raise ConnectionError("no route")

        hub(load)
        with pytest.raises(UsageError) as caught:
            read(SOURCE, None)
        assert str(caught.value) == (
            "data: cannot load 'someone/toys main prompt' from the Hugging Face hub (ConnectionError: no route); "
            "without a network, get toys.jsonl from https://example.org/toys and name its folder with --data-dir"
        )

    def test_other_fields(self, hub: Callable[[Callable[..., Any]], None]) -> None:
        """Items of the hub are checked as those of a file are."""
        hub(lambda *_, **__: [{"name": "a", "number": 1}])
        with pytest.raises(UsageError, match="someone/toys main prompt, row 0: got no 'tests'"):
            read(SOURCE, None)

    @pytest.mark.parametrize(
        ("name", "asked"),
        [
            ("gsm8k", [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")]),
            ("math500", [("HuggingFaceH4/MATH-500", None, "test")]),
            ("mbpp", [("google-research-datasets/mbpp", "full", split) for split in ("prompt", "test")]),
            ("humaneval", []),
        ],
    )
    def test_what_the_tasks_ask_for(
        self, name: str, asked: list[Any], hub: Callable[[Callable[..., Any]], None], tmp_path: Path
    ) -> None:
        """From the hub's items a task makes what it makes from the same ones in a folder."""
        task_items.write_all(tmp_path)
        rows = (
            {"test": "gsm8k_test", "train": "gsm8k_train"}
            if name == "gsm8k"
            else dict.fromkeys(("test", "prompt"), name)
        )
        seen = []

        def load(path: str, config: str | None, split: str) -> list[Any]:
            seen.append((path, config, split))
            lines = (tmp_path / f"{rows[split]}.jsonl").read_text("utf-8").split("\n")
            found = [json.loads(line) for line in lines if line]
            return [row for row in found if name != "mbpp" or (row["task_id"] <= 10) == (split == "prompt")]

        hub(load)
        task = load_task(name)
        items = task.items()
        assert seen == asked
        assert len(items) == 164 if name == "humaneval" else items == load_task(name, data_dir=tmp_path).items()
