"""The oracle: its answers are the baseline's, its forwards a bound, and it is on no ranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from feeding import feed
from record_factory import FIXED, manifest, one_section, record, rows, sample

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.plan import Plan
from l2pd_bench.records import load_runs
from l2pd_bench.report.columns import best, shown
from l2pd_bench.report.model import make_board
from l2pd_bench.runner import execute
from l2pd_bench.schema import Nfe
from l2pd_bench.strategies.factor import Factor
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.oracle import Oracle
from l2pd_bench.strategies.threshold import Threshold

Prompts = Callable[[int, int], list[list[int]]]


@pytest.mark.parametrize("eot", ["decode", "stop", "predict"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_output_equals_the_reference(cache: str, eot: str, mini: MiniHost, mini_prompts: Prompts) -> None:
    """In every setting the oracle's ids are the baseline's, in a batch as alone, and no rule that agrees is faster."""
    prompts, seeds = mini_prompts(4, 71), list(range(4))
    settings = DecodeSettings(64, 32, cache=cache, eot=eot)
    wanted = decode(mini, FixedStep(), prompts, seeds, settings).samples
    references = [s.output_ids for s in wanted]
    got = decode(mini, Oracle(), prompts, seeds, settings, references).samples

    assert [s.output_ids for s in got] == references
    assert all(o.nfe_full + o.nfe_window <= f.nfe_full + f.nfe_window for o, f in zip(got, wanted, strict=True))
    assert sum(s.nfe_full + s.nfe_window for s in got) < sum(s.nfe_full + s.nfe_window for s in wanted) / 5
    alone = [decode(mini, Oracle(), [p], [i], settings, [references[i]]).samples[0] for i, p in enumerate(prompts)]
    assert alone == got
    for rule in (Threshold(), Threshold(tau=0.7), Factor(), FixedStep(k=4)):
        for theirs, ours in zip(decode(mini, rule, prompts, seeds, settings).samples, got, strict=True):
            if theirs.output_ids == ours.output_ids:
                assert ours.nfe_full + ours.nfe_window <= theirs.nfe_full + theirs.nfe_window


@pytest.mark.parametrize("length", [32, 64])
def test_replay_by_the_definition(length: int, mini: MiniHost, mini_prompts: Prompts) -> None:
    """Tokens and forwards are those of a replay in plain Python: commit what agrees, paste the block when stuck.

    The reference is not the model's own decode but that of another prompt, so that blocks do get stuck.
    """
    prompts = mini_prompts(4, 72)
    answers = decode(mini, FixedStep(), prompts, [0] * 4, DecodeSettings(length, 32)).samples
    pasted = 0
    for prompt, answer in zip(prompts, [*answers[1:], answers[0]], strict=True):
        [got] = decode(mini, Oracle(), [prompt], [0], DecodeSettings(length, 32), [answer.output_ids]).samples
        canvas, forwards, overrides = [*prompt, *[mini.mask_id] * length], 0, 0
        for start in range(len(prompt), len(canvas), 32):
            block = range(start, start + 32)
            while masked := [c for c in block if canvas[c] == mini.mask_id]:
                with torch.inference_mode():
                    logits = feed(
                        mini.open([0], len(canvas), cached=False), torch.tensor([canvas]), 0, slice(start, start + 32)
                    )
                picks = logits[0].index_fill(-1, torch.tensor(mini.mask_id), -torch.inf).argmax(-1).tolist()
                forwards += 1
                right = [c for c in masked if picks[c - start] == answer.output_ids[c - len(prompt)]]
                overrides += not right
                for c in right or masked:
                    canvas[c] = answer.output_ids[c - len(prompt)]
        assert got.output_ids == canvas[len(prompt) :] == answer.output_ids
        assert (got.nfe_full, got.overrides, got.forced_commits) == (forwards, overrides, 0)
        pasted += overrides
    assert pasted > 0


def test_needs_a_reference(mini: MiniHost, mini_prompts: Prompts, tmp_path: Path) -> None:
    """Without the baseline's decode there is an error that says what to add, and nothing is written."""
    with pytest.raises(UsageError, match="got 0 reference decodes for 1 prompts, expected one for each"):
        decode(mini, Oracle(), mini_prompts(1, 73), [0], DecodeSettings(32, 32))
    plan = Plan(strategy=["oracle", "fixed-step:k=8"], task=["mini-code"], output=tmp_path / "runs")
    with pytest.raises(UsageError, match=r"'oracle': got no decode of fixed-step .* add --strategy fixed-step"):
        execute(plan, command="test")

    assert not (tmp_path / "runs").exists()


def test_a_run_takes_the_baselines_records(tmp_path: Path) -> None:
    """In a run, whatever the order of strategies and also when continued, the oracle goes by the baseline's records."""
    settings = {"task": ["mini-code"], "gen_length": [32], "eot": ["decode", "predict"], "output": tmp_path}
    for limit in (2, 5):
        plan = Plan(strategy=["oracle", "fixed-step", "threshold"], limit=limit, batch_size=[2], **settings)  # type: ignore[arg-type]
        assert execute(plan, command="test").exit_code == 0

    by_setting: dict[str, dict[str, list[list[int]]]] = {}
    for run in load_runs(tmp_path):
        ids = [s.output_ids for s in sorted(run.samples, key=lambda s: s.doc_id)]
        by_setting.setdefault(run.manifest.protocol_hash, {})[run.manifest.strategy.name] = ids
        assert run.manifest.strategy.deployable == (run.manifest.strategy.name != "oracle")
    assert len(by_setting) == 2
    for ids_of in by_setting.values():
        assert len(ids_of["oracle"]) == 5
        assert ids_of["oracle"] == ids_of["fixed-step"]


def test_board(tmp_path: Path) -> None:
    """The oracle stands last, is never the best, and gives every other row its share of the gap."""
    fixed = record(tmp_path, manifest(FIXED, planned=10), [sample(i, nfe=nfe(64)) for i in range(10)])
    rule = record(tmp_path, manifest("factor", planned=10), [sample(i, nfe=nfe(24), speed=3.0) for i in range(10)])
    oracle = record(tmp_path, manifest("oracle", planned=10), [sample(i, nfe=nfe(14), speed=9.0) for i in range(10)])
    section = one_section(fixed, rule, oracle)
    found = rows(section)

    assert [row.spec for row in section.rows] == ["factor", "fixed-step", "oracle"]
    assert [found[s].gap_closed for s in ("fixed-step", "factor", "oracle")] == [0.0, 40 / 50, 1.0]
    assert all(2 not in best(section, column) for column in shown(section))
    assert [row.deployable for row in section.rows] == [True, True, False]
    assert any("not ranked, as it is shown fixed-step's decode" in remark for remark in section.remarks)
    assert one_section(fixed, rule).rows[0].gap_closed is None


def test_oracle_threshold(tmp_path: Path) -> None:
    """The best threshold of each sample: the best score, of these the fewest forwards, of these the highest tau."""
    plan = {
        0.9: [(9, 1.0), (9, 1.0), (9, 0.0)],
        0.8: [(5, 1.0), (5, 0.0), (9, 0.0)],
        0.7: [(3, 0.0), (3, 0.0), (12, 0.0)],
    }
    runs = [record(tmp_path, manifest(FIXED, planned=3), [sample(i, nfe=nfe(64)) for i in range(3)])]
    for tau, outcomes in plan.items():
        samples = [
            sample(i, text=f"{tau}", score=score, correct=bool(score), nfe=nfe(n))
            for i, (n, score) in enumerate(outcomes)
        ]
        runs.append(record(tmp_path, manifest(f"threshold:tau={tau}", planned=3), samples))
    row = rows(one_section(*runs))["oracle-threshold"]

    assert [(s.nfe.total, s.text) for s in row.run.samples] == [(5, "0.8"), (9, "0.9"), (9, "0.9")]
    assert (row.deployable, row.derived, row.tps, row.speedup, row.untimed) == (False, True, None, None, 0)
    assert row.run.manifest.strategy.params == {"taus": "0.9, 0.8, 0.7"}
    assert "oracle-threshold" not in rows(one_section(runs[0], runs[1]))
    unfinished = replace(runs[2], manifest=replace(runs[2].manifest, status="interrupted"))
    assert "oracle-threshold" not in rows(one_section(runs[0], runs[1], unfinished))


def test_cut_and_agreement_with_decode(tmp_path: Path) -> None:
    """Under `predict` a row tells how much was cut, and how many answers are those of `decode`."""
    full = record(tmp_path, manifest("factor", planned=4), [sample(i, text="x") for i in range(4)])
    cut = [sample(i, text="xo"[i == 3], cut_tokens=90 + i) for i in range(4)]
    ended = record(tmp_path, manifest("factor", planned=4, eot="predict"), cut)
    decoded, predicted = make_board([full, ended]).sections

    assert (predicted.rows[0].cut_tokens, predicted.rows[0].decode_agreement) == (91.5, 0.75)
    assert (decoded.rows[0].cut_tokens, decoded.rows[0].decode_agreement) == (None, None)
    assert "cut" in [c.title for c in shown(predicted)]
    assert "cut" not in [c.title for c in shown(decoded)]


def nfe(total: int) -> Nfe:
    """So many forwards."""
    return Nfe(full=total, window=0, auxiliary=0)
