"""From a decoded canvas to a line of `samples.jsonl`: texts, verdict, counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l2pd_bench.decoded import Decoded
from l2pd_bench.hosts.base import Host
from l2pd_bench.schema import Nfe, Sample, Seconds, Tokens
from l2pd_bench.tasks.base import Verdict, cut_at


def sample_record(
    host: Host,
    doc_id: str,
    sample: Decoded,
    *,
    stop: Sequence[str],
    grade: Callable[[str], Verdict] | None,
    prompt_tokens: int,
    gross: int,
    segment: int,
    elapsed_s: float,
) -> Sample:
    """The record of one decoded sample; where nobody grades, its score is 0 and says nothing."""
    ids = sample.output_ids
    net = ids[: ids.index(host.eot_id)] if host.eot_id in ids else ids
    text = host.decode(net)
    answer_text = cut_at(text, stop)
    verdict = grade(answer_text) if grade is not None else Verdict(answer_text, 0.0)
    return Sample(
        doc_id=doc_id,
        status="ok",
        error=None,
        prompt_tokens=prompt_tokens,
        output_ids=ids,
        full_text=text,
        text=answer_text,
        answer=verdict.answer,
        correct=verdict.correct,
        score=verdict.score,
        tokens=Tokens(net=len(net), answer=answer_tokens(host, net, answer_text), gross=gross),
        nfe=Nfe(full=sample.nfe_full, window=sample.nfe_window, auxiliary=sample.nfe_auxiliary),
        positions=sample.positions,
        flops=sample.flops,
        forced_commits=sample.forced_commits,
        overrides=sample.overrides,
        cut_tokens=sample.cut_tokens,
        seconds=Seconds(decode=sample.decode_s, model=sample.model_s, select=sample.select_s, latency=sample.latency_s),
        segment=segment,
        elapsed_s=elapsed_s,
        timed=True,
    )


def oom_record(doc_id: str, error: str, prompt_tokens: int, segment: int, elapsed_s: float) -> Sample:
    """The record of a sample that does not fit into the memory even alone: a wrong answer, without times."""
    return Sample(
        doc_id=doc_id,
        status="oom",
        error=error,
        prompt_tokens=prompt_tokens,
        output_ids=[],
        full_text="",
        text="",
        answer="",
        correct=False,
        score=0.0,
        tokens=Tokens(net=0, answer=0, gross=0),
        nfe=Nfe(full=0, window=0, auxiliary=0),
        positions=0,
        flops=0,
        forced_commits=0,
        overrides=0,
        cut_tokens=0,
        seconds=Seconds(decode=0.0, model=0.0, select=0.0, latency=0.0),
        segment=segment,
        elapsed_s=elapsed_s,
        timed=False,
    )


def answer_tokens(host: Host, net: Sequence[int], answer_text: str) -> int:
    """How many of the net tokens it takes to spell the answer text."""
    low, high = 0, len(net)
    while low < high:
        middle = (low + high) // 2
        if len(host.decode(net[:middle])) < len(answer_text):
            low = middle + 1
        else:
            high = middle
    return low
