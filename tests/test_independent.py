"""The board against a second opinion: pandas, numpy and scipy on the files alone.

Nothing here imports the program to compute a number: records are read as JSON, the report
is a process of its own. A record may hold more fields than are read.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from record_factory import FAST, FIXED, manifest, record, sample
from scipy import stats

PROGRAM = str(Path(sys.executable).with_name("l2pd-bench"))
COMMITTED = Path(__file__).parents[1] / "results"
NONE = "\N{EN DASH}"


class Recorded(NamedTuple):
    """A run's files."""

    run: dict[str, Any]
    samples: pd.DataFrame


def read(folder: Path) -> Recorded:
    """`run.json`, and `samples.jsonl` with one row per sample, the last try of each; `path.to` are columns."""
    run = json.loads((folder / "run.json").read_text())
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    samples = pd.json_normalize(lines).drop_duplicates("doc_id", keep="last").set_index("doc_id")
    samples["session"] = [run["segments"][i]["session"] for i in samples["segment"]]
    samples["nfe"] = samples["nfe.full"] + samples["nfe.window"]
    samples["ok"] = samples["status"] == "ok"
    samples["right"] = samples["correct"] & samples["ok"]
    samples["points"] = 100 * samples["score"].where(samples["ok"], 0.0)
    return Recorded(run, samples)


def is_baseline(run: dict[str, Any]) -> bool:
    """Fixed-step, one token per step, most confident first."""
    strategy = run["strategy"]
    return strategy["name"] == "fixed-step" and strategy["params"].items() >= {"k": 1, "order": "confidence"}.items()


def paired_seconds(mine: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Decode seconds of both, of the samples timed in one session."""
    keys = ["session", "doc_id"]
    timed = [s[s["ok"] & s["timed"]].reset_index()[[*keys, "seconds.decode"]] for s in (mine, base)]
    return timed[0].merge(timed[1], on=keys, suffixes=("", ".base"))


def recompute(mine: Recorded, base: Recorded | None, reference: Recorded | None) -> dict[str, float | None]:
    """What the board says of a run, from its definitions."""
    samples = mine.samples
    done, timed = samples[samples["ok"]], samples[samples["ok"] & samples["timed"]]
    seconds = timed["seconds.decode"].sum()
    wilson = stats.binomtest(int(samples["right"].sum()), len(samples)).proportion_ci(0.95, "wilson")
    told: dict[str, float | None] = {
        "accuracy_percent": samples["points"].mean(),
        "accuracy_low_percent": 100 * wilson.low,
        "accuracy_high_percent": 100 * wilson.high,
        "tps": timed["tokens.net"].sum() / seconds,
        "tps_answer": timed["tokens.answer"].sum() / seconds,
        "tps_gross": timed["tokens.gross"].sum() / seconds,
        "tpf": done["tokens.net"].sum() / done["nfe"].sum(),
        "nfe_full": done["nfe.full"].mean(),
        "nfe_window": done["nfe.window"].mean(),
        "nfe_auxiliary": done["nfe.auxiliary"].mean(),
        **{f"latency_p{p}_s": np.percentile(timed["seconds.latency"], p) for p in (50, 90, 99)},
        "overhead_share": 1 - timed["seconds.model"].sum() / seconds,
        "mean_answer_tokens": done["tokens.answer"].mean(),
        "forced_per_sample": done["forced_commits"].mean(),
        "speedup": None,
        "reference_speedup": None,
        "delta_points": None,
        "delta_p": None,
        "agreement_share": None,
    }
    for name, other in (("speedup", base), ("reference_speedup", reference)):
        if other is not None:
            pairs = paired_seconds(samples, other.samples)
            if len(pairs):
                told[name] = pairs["seconds.decode.base"].sum() / pairs["seconds.decode"].sum()
    if base is not None:
        both = samples.merge(base.samples, left_index=True, right_index=True, suffixes=("", ".base"))
        told["delta_points"] = (both["points"] - both["points.base"]).mean()
        ok = both[both["ok"] & both["ok.base"]]
        told["agreement_share"] = (ok["text"] == ok["text.base"]).mean()
        if base.run["run_id"] != mine.run["run_id"]:
            won, lost = (both["right"] & ~both["right.base"]).sum(), (~both["right"] & both["right.base"]).sum()
            told["delta_p"] = stats.binomtest(int(won), int(won + lost)).pvalue if won + lost else 1.0
    return told


@functools.cache
def opinions(root: Path) -> list[tuple[Recorded, Recorded | None, Recorded | None, dict[str, float | None]]]:
    """Every run, its baseline, its reference, and what is recomputed of it."""
    found = []
    runs = [read(path.parent) for path in sorted(root.rglob("run.json"))]
    for mine in runs:
        protocol = mine.run["protocol"]
        plain = {**protocol, "cache": "none", "eot": "decode", "schedule": "blocks"}
        base = [r for r in runs if is_baseline(r.run) and r.run["protocol"] == protocol]
        reference = [r for r in runs if is_baseline(r.run) and r.run["protocol"] == plain]
        assert len(base) < 2 and len(reference) < 2
        pair = (base[0] if base else None, reference[0] if reference else None)
        found.append((mine, *pair, recompute(mine, *pair)))
    return found


@functools.cache
def report(root: Path, form: str) -> str:
    """What the program makes of the records."""
    done = subprocess.run(
        [PROGRAM, "report", str(root), "--format", form],
        capture_output=True, encoding="utf-8", check=True, env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    return done.stdout


def digits(value: float) -> str:
    """Three digits that count, at most three behind the point."""
    places = 2 - math.floor(math.log10(value)) if value else 0
    return f"{value:.{min(3, max(0, places))}f}"


def printed(told: dict[str, Any], *, is_base: bool) -> dict[str, str]:
    """The cells of a Markdown board, as its legend describes them, without the intervals of the bootstrap."""

    def form(name: str, spec: str, unit: str = "", factor: float = 1.0) -> str:
        return NONE if told[name] is None else f"{factor * told[name]:{spec}}{unit}"

    p = told["delta_p"]
    p_text = "" if p is None else " (p <.001)" if p < 0.001 else f" (p {p:.3f})".replace("0.", ".", 1)
    auxiliary = f"+{told['nfe_auxiliary']:.1f}" if told["nfe_auxiliary"] else ""
    low, high = form("accuracy_low_percent", ".1f"), form("accuracy_high_percent", ".1f")
    return {
        "acc. % (95 %)": f"{form('accuracy_percent', '.1f')} ({low}{NONE}{high})",
        "delta (p)": "base" if is_base else f"{form('delta_points', '+.1f')}{p_text}",
        "TPS (95 %)": digits(told["tps"]),
        "speedup (95 %)": form("speedup", ".2f", "x"),
        "vs ref (95 %)": form("reference_speedup", ".2f", "x"),
        "TPF": form("tpf", ".2f"),
        "NFE (full/win)": f"{told['nfe_full'] + told['nfe_window']:.1f} "
        f"({told['nfe_full']:.1f}/{told['nfe_window']:.1f}{auxiliary})",
        "p50 s (p90 s)": f"{digits(told['latency_p50_s'])} ({digits(told['latency_p90_s'])})",
        "overhead (%)": form("overhead_share", ".1f", factor=100),
        "agree (%)": "base" if is_base else form("agreement_share", ".1f", factor=100),
        "length": form("mean_answer_tokens", ".1f"),
        "forced": form("forced_per_sample", ".2f"),
    }


def markdown_rows(text: str) -> dict[str, dict[str, str]]:
    """The rows of a board by their folder, as title and cell; marks of the best taken off."""
    found: dict[str, dict[str, str]] = {}
    titles: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| strategy"):
            titles = cells
        elif line.startswith("| `") and len(cells) == len(titles):
            row = dict(zip(titles, cells, strict=True))
            found[row["records"].strip("`")] = {k: v.replace("**", "") for k, v in row.items()}
        elif not line:
            titles = []
    return found


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with errors, untimed samples, other sessions, tries repeated, and a run that is not complete."""
    root = tmp_path_factory.mktemp("odd")
    record(root, manifest(FIXED, planned=30), [sample(i, accuracy=0.9) for i in range(30)], session="a")
    failed = [sample(i, status="error", error="x", text="") for i in range(2)]
    fast = [sample(i, speed=3.0, accuracy=0.6, timed=i % 5 > 0) for i in range(2, 20)]
    record(root, manifest(FAST, planned=30), [*failed, *fast], session="b", finished=False)
    again = [sample(i, speed=3.0, accuracy=0.6) for i in range(1, 2)]
    late = [sample(i, speed=3.0, accuracy=0.6, score=0.25) for i in range(20, 28)]
    record(root, manifest(FAST, planned=30), [*again, *late], session="a", finished=False)
    return root


@pytest.fixture(params=["made up", "odd", "committed"])
def root(request: pytest.FixtureRequest, results: Path, odd: Path) -> Path:
    """A folder of records."""
    return {"made up": results, "odd": odd, "committed": COMMITTED / "mini-code"}[request.param]


def test_to_the_last_digit(root: Path) -> None:
    """Every number of the csv report, and every cell that is printed, equals what a few lines make of the files."""
    table = {row["run_id"]: row for row in csv.DictReader(io.StringIO(report(root, "csv")))}
    # That the leaderboard is what is reported of the committed records, test_readme.py asserts.
    is_committed = root.is_relative_to(COMMITTED)
    text = (COMMITTED / "LEADERBOARD.md").read_text("utf-8") if is_committed else report(root, "markdown")
    cells = {Path(folder).parts[-2:]: row for folder, row in markdown_rows(text).items()}
    checked = 0
    for mine, base, _, told in opinions(root):
        flat = table[mine.run["run_id"]]
        for name, value in told.items():
            if value is None:
                assert flat[name] == "", name
            else:
                assert float(flat[name]) == pytest.approx(value, rel=1e-12, abs=1e-12), name
        is_base = base is not None and base.run["run_id"] == mine.run["run_id"]
        assert flat["is_baseline"] == str(is_base)
        for title, text in printed(told, is_base=is_base).items():
            shown = cells[Path(flat["folder"]).parts[-2:]][title]
            if title in ("TPS (95 %)", "speedup (95 %)", "vs ref (95 %)"):
                shown = shown.partition(" (")[0]
            assert shown == text, (flat["folder"], title)
        checked += 1

    assert checked == len(list(root.rglob("run.json"))) > 1


def test_bootstrap(root: Path) -> None:
    """The speedups' intervals end where a plain bootstrap ends, within the Monte Carlo error of both.

    Distribution-free: of the ratios drawn a share of 2.5 % lies below the low end, and
    above the high one (or at it, where few samples make few values), but for five standard
    deviations of such a share among the program's draws (10,000, and fewer of many pairs)
    and the 10,000 here.
    """
    table = {row["run_id"]: row for row in csv.DictReader(io.StringIO(report(root, "csv")))}
    rng, draws = np.random.default_rng(7), 10_000
    checked = 0
    for mine, *others, _ in opinions(root):
        assert mine.run["protocol"]["batch_size"] == 1  # else batches would be drawn
        for name, other in zip(("speedup", "reference_speedup"), others, strict=True):
            if other is None or other.run["run_id"] == mine.run["run_id"] or checked >= 12:
                continue
            pairs = paired_seconds(mine.samples, other.samples)
            if pairs.empty:  # timed in another process
                assert table[mine.run["run_id"]][name] == ""
                continue
            theirs_drawn = max(1_000, min(10_000, 2_000_000 // len(pairs)))
            allowed = 5 * math.sqrt(0.025 * 0.975 * (1 / theirs_drawn + 1 / draws))
            chosen = rng.integers(len(pairs), size=(draws, len(pairs)))
            ours, theirs = (pairs[key].to_numpy() for key in ("seconds.decode", "seconds.decode.base"))
            ratios = theirs[chosen].sum(1) / ours[chosen].sum(1)
            for end, sign in (("low", 1), ("high", -1)):
                beyond = sign * (ratios - float(table[mine.run["run_id"]][f"{name}_{end}"]))
                assert np.mean(beyond < -1e-9) < 0.025 + allowed, (name, end)
                assert np.mean(beyond < 1e-9) > 0.025 - allowed, (name, end)
            checked += 1

    assert checked


def test_aup(tmp_path: Path) -> None:
    """A sweep's AUP is the area of its definition: from the baseline on, points that lose more than 5 left out."""
    shares = {1.5: 0.92, 2.0: 0.9, 3.0: 0.88, 5.0: 0.86, 8.0: 0.5}
    runs = [(FIXED, 1.0, 0.9), *((f"threshold:tau={1 - speed / 10:g}", speed, s) for speed, s in shares.items())]
    for spec, speed, accuracy in runs:
        samples = [
            sample(i, speed=speed, correct=i < 100 * accuracy, score=float(i < 100 * accuracy)) for i in range(100)
        ]
        record(tmp_path, manifest(spec, planned=100), samples)
    document = json.loads(report(tmp_path, "json"))
    told = {mine.run["strategy"]["spec"]: values for mine, _, _, values in opinions(tmp_path)}
    ((curve,),) = [frontier["curves"] for frontier in document["frontiers"]]

    y_max = told[FIXED]["accuracy_percent"]
    assert y_max == curve["y_max_percent"] == 90.0
    for speed_name, key in (("tpf", "aup_tpf"), ("tps", "aup_tps")):
        points = sorted((values[speed_name], values["accuracy_percent"]) for values in told.values())
        kept = np.array([point for point in points if point[1] >= points[0][1] - 5])
        weighted = kept[:, 1] * np.minimum(np.exp(-3 * (1 - kept[:, 1] / y_max)), 1)
        expected = kept[0].prod() + np.trapezoid(weighted, kept[:, 0])
        assert len(kept) == 5
        assert points[0][1] == y_max
        assert curve[key] == pytest.approx(expected, rel=1e-12)
        assert re.search(rf"\| [^|]*tau[^|]*\|.*\| {expected:.1f} \|", report(tmp_path, "markdown"))


def test_this_file_computes_alone() -> None:
    """What is computed here is computed without the program; only records are made with its help."""
    imported = re.findall(r"^(?:from|import) (\w+)", Path(__file__).read_text("utf-8"), re.M)

    assert "l2pd_bench" not in imported
