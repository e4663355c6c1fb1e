r"""`math` and `math500`: competition problems with a worked solution that ends in a `\boxed{answer}`.

Prompts, solved examples, stop strings and grading are those of lm-eval's tasks
`minerva_math_*` and `minerva_math500`: the examples and what compares answers are taken
from the lm-eval and math-verify that are installed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, ClassVar

from l2pd_bench.errors import UsageError
from l2pd_bench.tasks import common
from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.data import Source, read

FIELDS = {"problem": str, "solution": str}
SUBJECTS = (
    "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"
).split()
MATH = Source(
    "math_test.jsonl",
    "https://huggingface.co/datasets/EleutherAI/hendrycks_math (its seven subjects one after the other)",
    "EleutherAI/hendrycks_math",
    tuple((subject, "test") for subject in SUBJECTS),
    FIELDS,
)
MATH500 = Source(
    "math500.jsonl",
    "https://huggingface.co/datasets/HuggingFaceH4/MATH-500 (test.jsonl)",
    "HuggingFaceH4/MATH-500",
    ((None, "test"),),
    FIELDS,
)
MAX_SHOTS = 4
DECIDERS = {"math-verify": "math-verify", "exact-match": "lm-eval"}  # filter: the distribution that decides
NOT_FOUND = "[invalidanswer]"  # lm-eval's word for a text without the phrase
PARSE_SECONDS = 5  # math-verify's own limits, where they work

Grade = Callable[[Item, str], Verdict]


@dataclass(frozen=True)
class Math:
    """MATH: 5,000 competition problems, with 4 solved examples; the answer is compared as mathematics.

    `filter` math-verify compares any form of an answer; exact-match wants the phrase of
    the solved examples, "The final answer is". The form instruct has the same text as one
    user turn.
    """

    name: ClassVar[str] = "math"
    gen_length: ClassVar[int] = 256
    stop: ClassVar[tuple[str, ...]] = ("Problem:",)
    source: ClassVar[Source] = MATH
    form: str = "base"
    data_dir: str | None = None
    shots: int = 4
    filter: str = "math-verify"

    def __post_init__(self) -> None:
        _require(self.form, self.shots, self.filter)

    @property
    def prompt_format(self) -> str:
        """See `Task.prompt_format`."""
        return common.prompt_format(self.form)

    @property
    def few_shot(self) -> int:
        """See `Task.few_shot`."""
        return self.shots

    @property
    def grading(self) -> str:
        """See `Task.grading`."""
        return _grading(self.filter)

    @cached_property
    def data_hash(self) -> str:
        """See `Task.data_hash`."""
        return common.hash_items(self.items())

    def items(self) -> Sequence[Item]:
        """The test split (of all, subject by subject); an item is named after its place in it."""
        return self._items

    def grade(self, item: Item, text: str) -> Verdict:
        """Compare the answer that the filter finds in the text with the solution's."""
        return self._grade(item, text)

    @cached_property
    def _items(self) -> list[Item]:
        return _items(self.name, self.source, self.data_dir, self.shots)

    @cached_property
    def _grade(self) -> Grade:
        return _grader(self.filter)


@dataclass(frozen=True)
class Math500(Math):
    """MATH-500: 500 of the problems of MATH, as `math` asks and grades them."""

    name: ClassVar[str] = "math500"
    source: ClassVar[Source] = MATH500


def _require(form: str, shots: int, chosen: str) -> None:
    common.require("form", form, common.FORMS)
    common.require("filter", chosen, DECIDERS)
    common.require_shots(shots, MAX_SHOTS)


def _grading(chosen: str) -> str:
    """The filter, and what decides with its version."""
    decider = DECIDERS[chosen]
    try:
        number = version(decider)
    except PackageNotFoundError as error:
        raise _missing(error) from error
    return f"{decider} {number}" if chosen == decider else f"{chosen}, {decider} {number}"


def _missing(error: BaseException) -> UsageError:
    return UsageError(
        f"math: got {type(error).__name__} ({str(error) or 'antlr4-python3-runtime is not 4.11'}), expected the "
        "libraries that compare mathematics; install them: pip install 'lm-eval[math]'"
    )


def _minerva() -> ModuleType:
    """lm-eval's own functions for these tasks."""
    try:
        from lm_eval.tasks.minerva_math import utils
    except (ImportError, AssertionError) as error:
        raise _missing(error) from error
    module: ModuleType = utils
    return module


def _items(name: str, source: Source, data_dir: str | None, shots: int) -> list[Item]:
    rows = read(source, data_dir)
    minerva = _minerva()
    solved = minerva.list_fewshot_samples()[:shots]
    examples = "".join(f"{_ask(shot['problem'])} {shot['solution']}\n\n" for shot in solved)
    found = []
    for index, row in enumerate(rows):
        boxed = minerva.last_boxed_only_string(row["solution"])
        if boxed is None:
            raise UsageError(f"data: {name}/{index}: got a solution without \\boxed{{answer}}, expected MATH's own")
        answer = minerva.normalize_final_answer(minerva.remove_boxed(boxed))
        prompt = examples + _ask(row["problem"])
        found.append(Item(f"{name}/{index}", prompt, row["solution"], {"answer": answer}))
    return found


def _ask(problem: str) -> str:
    return f"Problem:\n{problem}\n\nSolution:"


def _grader(chosen: str) -> Grade:
    return _verifier() if chosen == "math-verify" else _exact_match


def _verifier() -> Grade:
    """Grading by math-verify; a reference is parsed once."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise _missing(error) from error
    gold: dict[str, list[Any]] = {}

    def grade(item: Item, text: str) -> Verdict:
        # Its time-outs are alarm signals, which only the main thread can have.
        seconds = PARSE_SECONDS if threading.current_thread() is threading.main_thread() else None
        if item.reference not in gold:
            gold[item.reference] = parse(item.reference, parsing_timeout=seconds)
        found = parse(text, parsing_timeout=seconds)
        equal = verify(gold[item.reference], found, timeout_seconds=seconds)
        return Verdict(str(found[-1]) if found else "", float(equal))

    return grade


def _exact_match(item: Item, text: str) -> Verdict:
    if threading.current_thread() is not threading.main_thread():
        # Its time-out would raise an error there, which it takes for a difference.
        raise RuntimeError("lm-eval's is_equiv works in the main thread only")
    minerva = _minerva()
    found = minerva.get_unnormalized_answer(text)
    if found == NOT_FOUND:  # comparing that is slow
        return Verdict("", 0.0)
    answer = minerva.normalize_final_answer(found)
    return Verdict(answer, float(minerva.is_equiv(answer, item.data["answer"])))
