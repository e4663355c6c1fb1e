"""Published numbers: what the file says, which runs they stand beside, and how that is shown."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from record_factory import FIXED, manifest, record, sample

from l2pd_bench import cli
from l2pd_bench.claims import Claim, comparable, differences, load_claims, parse_claims
from l2pd_bench.errors import BenchError
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run
from l2pd_bench.registry import catalog, load_strategy
from l2pd_bench.report import make_board
from l2pd_bench.report.claims import add_claims, claims_text, make_claims, nearest

THRESHOLD = "threshold:tau=0.9"
GSM8K: dict[str, Any] = {"task": "gsm8k", "few_shot": 5, "gen_length": 256, "model": "GSAI-ML/LLaDA-8B-Instruct"}
ENTRY = """
- source: A paper
  arxiv: "1"
  table: T
  setting: {tokens: answer, model: m}
  remark: one
  methods: {fast: {strategy: "threshold:tau=0.9", cache: none}, other: {strategy: null}}
  tasks: {gsm8k: {shots: 5}}
  remarks: {two: two}
  rows:
    - {task: gsm8k, gen_length: 256, method: fast, tps: 2, accuracy: 50, remarks: [two]}
    - {task: gsm8k, method: other, tps: 2.5, accuracy: 50.5}
"""


def run_of(root: Path, spec: str, *, count: int = 4, speed: float = 1.0, **setting: Any) -> Run:
    """A run of `count` right samples."""
    samples = [sample(i, speed=speed, accuracy=1.0) for i in range(count)]
    return record(root, manifest(spec, planned=count, **{**GSM8K, **setting}), samples)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `l2pd-bench`; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["l2pd-bench", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


class TestFile:
    def test_tables_are_whole(self) -> None:
        """The file has every row of the eight tables, each once."""
        claims = load_claims()

        assert Counter((c.source, c.table) for c in claims) == {
            ("Learn2PD", "main table"): 4 * 2 * 3,
            ("Learn2PD", "KV cache"): 3,
            ("Fast-dLLM", "Table 1"): 4 * 2 * 4,
            ("Fast-dLLM", "Table 2"): 4 * 2 * 4,
            ("Fast-dLLM", "Table 3"): 4,
            ("Fast-dLLM", "Table 4"): 3 * 4,
            ("APD", "Table 1"): 9,
            ("APD", "Pareto figure"): 5 * 3,
        }
        places = [(c.source, c.table, c.method, c.task, c.gen_length) for c in claims]
        assert len(set(places)) == len(places)

    def test_some_by_heart(self) -> None:
        """Cells that the papers' abstracts and their readers quote stand here as there."""
        cells = {
            (c.source, c.table, c.method, c.task, c.gen_length): (c.tps, c.speedup, c.accuracy) for c in load_claims()
        }

        assert cells["Learn2PD", "main table", "+Learn2PD&EoTP", "gsm8k", 1024] == (12.26, 22.58, 79.83)
        assert cells["Learn2PD", "KV cache", "+Dual", "gsm8k", 1024] == (31.23, 57.51, 74.00)
        assert cells["Fast-dLLM", "Table 1", "+Cache+Parallel", "gsm8k", 256] == (54.4, 8.1, 78.5)
        assert cells["Fast-dLLM", "Table 2", "+Parallel", "mbpp", 512] == (37.6, 4.0, 55.4)
        assert cells["Fast-dLLM", "Table 4", "Dual", "gsm8k", 1024] == (19.3, 27.6, 76.0)
        assert cells["APD", "Table 1", "Dream left to right, K=1", "gsm8k", 256] == (10.1, None, 83.2)
        assert cells["APD", "Pareto figure", "APD .7/16/100", "gsm8k", 256] == (104.4, None, 71.7)

    def test_speedups_are_ratios(self) -> None:
        """Every published speedup is, but for rounding, its TPS over that of one token per step without a cache."""
        claims = load_claims()
        told = [claim for claim in claims if claim.speedup is not None]
        base = {
            (c.source, c.model, c.shots, c.task, c.gen_length): c.tps
            for c in claims
            if (c.strategy or "").startswith("fixed-step:k=1") and (c.cache, c.eot) == ("none", "decode")
        }

        assert len(told) == 16 + 3 + 24 + 24 + 3 + 9
        for c in told:
            assert c.speedup == pytest.approx(
                c.tps / base[c.source, c.model, c.shots, c.task, c.gen_length], rel=0.09
            ), c.place

    def test_in_our_words(self) -> None:
        """Every strategy is one of ours as its parameters name it, every task one of ours but gpqa."""
        tasks = {entry.name for entry in catalog("tasks")} | {"gpqa"}

        for claim in load_claims():
            assert claim.task in tasks
            assert claim.remark
            if claim.strategy is not None:
                _, spec = load_strategy(claim.strategy)
                name, _, params = claim.strategy.partition(":")
                assert spec.name == name
                assert all(pair.partition("=")[0] in spec.params for pair in params.split(",") if pair)

    @pytest.mark.parametrize(
        ("suite", "source", "table"),
        [
            ("learn2pd-table1", "Learn2PD", "main table"),
            ("learn2pd-kvcache", "Learn2PD", "KV cache"),
            ("fast-dllm-table1", "Fast-dLLM", "Table 1"),
        ],
    )
    def test_suites_cover_their_tables(self, suite: str, source: str, table: str) -> None:
        """The suite named after a table decodes every row of it: task, strategy, length, cache, EoT policy, model."""
        plan = make_plan(suite, {})
        tasks = [text.partition(":")[0] for text in plan.task]
        cells = {
            (load_strategy(text)[1].spec, at.gen_length, at.cache, at.eot, at.batch_size)
            for at, texts in plan.settings(0).items()
            for text in texts
        }
        rows = [c for c in load_claims() if (c.source, c.table) == (source, table)]

        assert rows
        for c in rows:
            assert (c.model, c.block_length) == (plan.model, plan.block_length)
            assert c.task in tasks
            assert c.strategy is not None
            assert (load_strategy(c.strategy)[1].spec, c.gen_length, c.cache, c.eot, c.batch_size) in cells, c.place

    def test_merged(self) -> None:
        """A row has the settings of its table, method and task, and its remarks; what is not told is None."""
        first, second = parse_claims(ENTRY)

        assert first == Claim(
            source="A paper", arxiv="1", table="T", method="fast", task="gsm8k", strategy=THRESHOLD, tps=2.0,
            accuracy=50.0, tokens="answer", model="m", cache="none", gen_length=256, shots=5, remark="one; two",
        )  # fmt: skip
        assert (second.strategy, second.gen_length, second.cache, second.remark) == (None, None, None, "one")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("tps: 2.5,", "tps: 2.5, tsp: 3,", r"'A paper, T', row 2: tsp: .*[Uu]nexpected"),
            ("tps: 2.5,", "", r"'A paper, T', row 2: tps: .*required"),
            ("tps: 2.5,", "tps: fast,", r"row 2: tps: got 'fast', .*number"),
            ("tps: 2.5,", "tps: .nan,", r"row 2: tps: .*finite"),
            ("shots: 5", "shots: 5.5", r"row 1: shots: got 5.5, .*integer"),
            ("method: other", "method: othr", "row 2: method: got 'othr', expected one of fast, other"),
            ("task: gsm8k, method", "task: gsm, method", "row 2: task: got 'gsm', expected one of gsm8k"),
            ("remarks: [two]", "remarks: [too]", "row 1: remark: got 'too', expected one of two"),
            ("tokens: answer", "tokens: words", "row 1: tokens: got 'words'.*'answer'"),
            ("  remark: one\n", "", "table 1: remark: .*required"),
            ("  remark: one\n", "  remark: one\n  note: x\n", "table 1: note: got 'x'"),
        ],
    )
    def test_strict(self, old: str, new: str, message: str) -> None:
        """An entry with a key too many, too few or of the wrong kind is refused, and named."""
        assert ENTRY.count(old) == 1
        with pytest.raises(BenchError, match=message):
            parse_claims(ENTRY.replace(old, new))

    def test_no_list(self) -> None:
        """A file that is no list of tables is refused."""
        with pytest.raises(BenchError, match=r"claims.yaml: got dict, expected a list"):
            parse_claims(yaml.safe_dump({"rows": []}))


class TestMatching:
    def test_by_the_fields(self, tmp_path: Path) -> None:
        """A claim belongs to runs of its task and strategy with the parameters it tells, and to no other."""
        claim, nobody = parse_claims(ENTRY)

        def belongs(spec: str, **setting: Any) -> bool:
            return comparable(claim, run_of(tmp_path, spec, **setting))

        assert belongs(THRESHOLD)
        assert belongs(THRESHOLD, model="other", cache="dual", gen_length=64, few_shot=0)
        assert not belongs("threshold:tau=0.95")
        assert not belongs("threshold:tau=0.9", task="gsm8k-cot")
        assert not belongs("factor:tau=0.9")
        assert not comparable(nobody, run_of(tmp_path, "none"))
        loose = replace(claim, strategy="threshold")
        assert comparable(loose, run_of(tmp_path, "threshold:tau=0.5"))

    def test_differences(self, tmp_path: Path) -> None:
        """Every setting that differs is named with both values, one that is not told with None, an equal one not."""
        (claim, _) = parse_claims(ENTRY)
        claim = replace(claim, hardware="A100", temperature=0.0, batch_size=1, block_length=32, eot="decode", items=4)
        same = run_of(tmp_path / "a", THRESHOLD, model="m", device="A100")
        other = run_of(
            tmp_path / "b", THRESHOLD, count=3, model="n", device="cpu", cache="dual", eot="stop", gen_length=64,
            block_length=16, few_shot=0, temperature=0.5, batch_size=2,
        )  # fmt: skip

        assert list(differences(claim, same)) == []
        assert set(differences(claim, other)) == {
            ("model", "n", "m"), ("hardware", "cpu", "A100"), ("cache", "dual", "none"), ("eot", "stop", "decode"),
            ("gen_length", 64, 256), ("block_length", 16, 32), ("shots", 0, 5), ("temperature", 0.5, 0.0),
            ("batch_size", 2, 1), ("items", 3, 4),
        }  # fmt: skip
        untold = replace(claim, strategy="threshold", hardware=None)
        assert set(differences(untold, same)) == {("hardware", "A100", None), ("threshold's tau", 0.9, None)}

    def test_figures(self, tmp_path: Path) -> None:
        """Ratios are measured over published: accuracy, TPS by the claim's counter, speedup against the reference."""
        base = run_of(tmp_path, "fixed-step")
        fast = run_of(tmp_path, THRESHOLD, speed=4.0, cache="dual")
        (claim, _) = parse_claims(ENTRY)
        board = make_board([base, fast])
        told = make_claims(board, [replace(claim, speedup=2.0), replace(claim, tokens="net")])
        (row, (answer, net)) = told.compared[0]
        seconds, slow = (sum(s.seconds.decode for s in run.samples) for run in (fast, base))
        tokens = [sum(getattr(s.tokens, name) for s in fast.samples) for name in ("answer", "net")]

        assert row.run is fast
        assert [row.run for row in told.unclaimed] == [base]
        assert answer.measured == pytest.approx((100.0, tokens[0] / seconds, slow / seconds))
        assert answer.ratio == pytest.approx((2.0, tokens[0] / seconds / 2, slow / seconds / 2))
        assert net.measured.tps == pytest.approx(tokens[1] / seconds)
        assert (net.published.speedup, net.ratio.speedup) == (None, None)

    def test_nearest(self, tmp_path: Path) -> None:
        """Shown are the claims with the fewest settings that differ; hardware and items do not count."""
        (claim, _) = parse_claims(ENTRY)
        claims = [
            replace(claim, method="a", model=GSM8K["model"], hardware="A100", items=7),
            replace(claim, method="b", model=GSM8K["model"]),
            replace(claim, method="c"),
        ]
        board = make_board([run_of(tmp_path, THRESHOLD)])
        ((_, every),) = make_claims(board, claims).compared

        assert [c.claim.method for c in every] == ["a", "b", "c"]
        assert [c.claim.method for c in nearest(every)] == ["a", "b"]


class TestShown:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Records of GSM8K with claims, of a strategy without one, and of a task without any."""
        root = tmp_path / "records"
        run_of(root, "fixed-step:k=1,order=confidence")
        run_of(root, THRESHOLD, speed=4.0)
        run_of(root, "klass", speed=3.0)
        record(root, manifest(FIXED, planned=4), [sample(i) for i in range(4)])
        return root

    def test_terminal(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Behind the board stand measured, published and ratio, what differs, and one line on rows without a claim."""
        monkeypatch.setenv("COLUMNS", "200")
        assert call(monkeypatch, "report", root, "--claims") == 0
        text = capsys.readouterr().out.partition("Published and measured")[2]

        assert "Fast-dLLM (arXiv 2505.22618), Table 1, +Parallel" in text
        assert re.search(r"published +79\.2 +16\.5 +2\.5x\n", text)
        assert "differs: hardware cpu (there NVIDIA A100 80GB)" in text
        assert "no published numbers for mini-math: the papers measured gpqa, gsm8k" in text
        assert "no claim on klass on gsm8k" in text
        assert "19 further claims differ in more" in text

    def test_only_mini(self, tmp_path: Path) -> None:
        """A board of tasks that nobody published says so in one sentence, and nothing else."""
        board = make_board([record(tmp_path, manifest(FIXED), [sample(0)])])
        lines = [line for line in claims_text(board).splitlines() if line]

        assert lines[1:] == [
            "no published numbers for mini-math: the papers measured gpqa, gsm8k, humaneval, math, mbpp"
        ]

    def test_json_and_markdown(self, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """JSON has every claim on every row, Markdown one line for each of the nearest; the board stays as it was."""
        for name in ("json", "markdown"):
            for words in ([], ["--claims"]):
                target = tmp_path / f"{name}{len(words)}"
                assert call(monkeypatch, "report", root, "--format", name, "-o", target, *words) == 0
        document = json.loads((tmp_path / "json1").read_text())
        table = (tmp_path / "markdown1").read_text().removeprefix((tmp_path / "markdown0").read_text())
        claims = document.pop("claims")

        assert document == json.loads((tmp_path / "json0").read_text())
        assert len([c for c in claims["compared"] if c["strategy"] == THRESHOLD]) == 20
        near = [c for c in claims["compared"] if c["nearest"]]
        lines = [line for line in table.splitlines() if line.startswith("| gsm8k")]
        assert len(near) == len(lines)
        assert {line.count("|") for line in lines} == {13}
        for c, line in zip(near, lines, strict=True):
            assert f" {c['published']['accuracy']:g} " in line
            assert c["measured"]["tps"] / c["published"]["tps"] == pytest.approx(c["ratio"]["tps"])
        assert [(c["task"], c["strategy"]) for c in claims["unclaimed"]] == [("gsm8k", "klass"), ("mini-math", FIXED)]

    @pytest.mark.parametrize("name", ["csv", "latex"])
    def test_no_place(
        self, name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A format without a place for claims is refused before anything is read, and the ones that have are named."""
        assert call(monkeypatch, "report", root, "--claims", "--format", name) == 2
        assert f"got --format {name}, expected rich, markdown or json" in capsys.readouterr().err

    def test_hostile_text(self, tmp_path: Path) -> None:
        """What a record says of its model is text, on the terminal no control sequence and in Markdown no markup."""
        run = run_of(tmp_path, THRESHOLD, model="a\x1b[31m<script>|`b")
        board = make_board([run])

        assert "\x1b" not in claims_text(board)
        page = add_claims("", "markdown", board)
        assert "\\<script\\>\\|\\`b" in page
