"""The conformance kit: the built-ins pass it, and every kind of mistake fails the check that is meant for it."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
from filter_factory import random_host

from l2pd_bench import check as kit
from l2pd_bench import cli, conformance, registry
from l2pd_bench.conformance import ORDER
from l2pd_bench.errors import UsageError

OWN = [entry.name for entry in registry.catalog("strategies") if entry.distribution == registry.OWN_DISTRIBUTION]
HEAD = """
import random
from dataclasses import dataclass
from typing import ClassVar

import torch

from l2pd_bench.errors import UsageError
from l2pd_bench.strategies.base import Context, Decision, Select, StepView, Strategy
from l2pd_bench.strategies.rules import best

SEEN = []


@dataclass(frozen=True)
class Bad(Strategy):
    name: ClassVar[str] = "bad"
    tau: float = 0.9

"""
SELECT = "    def select(self, view):\n"
GOOD = """\
        sure = view.candidates & (view.confidence >= self.tau)
        return Decision(sure | best(view.confidence, view.candidates))
"""
# What is wrong: the code of the class, the checks that fail, a part of the reason, and the line that is pointed at.
BAD: dict[str, tuple[str, list[str], str, str]] = {
    "reads with item()": (
        SELECT + "        k = 1 + int(view.tokens.max().item() >= 0)\n"
        "        return Decision(best(view.confidence, view.candidates, k))\n",
        ["meta"],
        "no .item(), .tolist()",
        "k = 1 + int(view.tokens.max().item()",
    ),
    "asks a tensor": (
        SELECT + "        if (view.confidence > 2).any():\n            return Decision(view.candidates)\n" + GOOD,
        ["meta"],
        "`if tensor`",
        "if (view.confidence > 2).any():",
    ),
    "indexes with a mask": (
        SELECT + "        low = view.confidence[view.candidates].shape[0] * 0.0\n" + GOOD,
        ["meta"],
        "x[mask]",
        "low = view.confidence[view.candidates]",
    ),
    "makes tensors on the CPU": (
        SELECT + "        return Decision(view.candidates & (torch.rand(1, 32) >= 0))\n",
        ["meta"],
        "device=view.tokens.device",
        "return Decision(view.candidates & (torch.rand",
    ),
    "answers from the CPU": (
        SELECT + "        return Decision(torch.ones(view.tokens.shape, dtype=torch.bool) if view.tokens.is_meta else "
        "view.candidates)\n",
        ["meta"],
        "got a mask on cpu for a view on meta; make tensors on the view's device",
        "def select(self, view)",
    ),
    "returns indices": (
        SELECT + "        return Decision(view.confidence.argmax(-1))\n",
        ["decision"],
        "got torch.int64 (3,); return masks, never indices: rules.best",
        "def select(self, view)",
    ),
    "returns a tensor": (
        SELECT + "        return view.candidates\n",
        ["decision"],
        "must return a Decision, got Tensor",
        "def select(self, view)",
    ),
    "gives tokens that are none": (
        SELECT + "        return Decision(view.candidates, tokens=view.tokens + 1_000)\n",
        ["decision"],
        "and not MASK (0); leave such positions out",
        "def select(self, view)",
    ),
    "gives MASK": (
        SELECT + "        return Decision(view.candidates, tokens=view.tokens * 0)\n",
        ["decision"],
        "got id 0 for a position to fill",
        "def select(self, view)",
    ),
    "raises": (
        SELECT + "        if view.step == 3:\n            raise KeyError('no such thing')\n"
        "        return Decision(best(view.confidence, view.candidates))\n",
        ["decision"],
        "KeyError: 'no such thing'",
        "raise KeyError('no such thing')",
    ),
    "raises in begin": (
        "    def begin(self, context):\n        raise OSError('no weights')\n",
        ["decision"],
        "OSError: no weights",
        "raise OSError('no weights')",
    ),
    "writes to the view": (
        SELECT + "        view.confidence.masked_fill_(~view.candidates, 0.0)\n" + GOOD,
        ["view"],
        "view.confidence was written to; work on a copy",
        "def select(self, view)",
    ),
    "never ends": (
        SELECT + "        return Decision(best(view.confidence, view.candidates, 4), remask=~view.candidates)\n",
        ["fills"],
        "still has masks after 128 forwards",
        "def select(self, view)",
    ),
    "remembers in a global": (
        SELECT + "        SEEN.append(0)\n"
        "        return Decision(best(view.confidence, view.candidates, 1 + len(SEEN) // 20))\n",
        ["state"],
        "keep memory in the closure that begin() returns",
        "def select(self, view)",
    ),
    "remembers the first batch": (
        SELECT + "        if len(SEEN) < 9:\n            SEEN.append(best(view.uniform(), view.candidates))\n"
        "            return Decision(SEEN[-1])\n" + GOOD,
        ["state"],
        "something outlives a decode",
        "def select(self, view)",
    ),
    "draws its own numbers": (
        SELECT + "        return Decision(best(torch.rand(view.tokens.shape, device=view.tokens.device), "
        "view.candidates, 4))\n",
        ["seed"],
        "draw from view.uniform()",
        "def select(self, view)",
    ),
    "draws from `random`": (
        SELECT + "        return Decision(best(view.confidence, view.candidates, random.randint(1, 9)))\n",
        ["seed"],
        "draw from view.uniform()",
        "def select(self, view)",
    ),
    "looks at the whole batch": (
        SELECT + "        masked = view.confidence.masked_fill(~view.candidates, 0.0)\n"
        "        sure = (masked >= 0.9 * masked.max()) & view.candidates\n"
        "        return Decision(sure | best(masked, view.candidates))\n",
        ["rows"],
        "reduce over the last dimension only",
        "def select(self, view)",
    ),
    "holds on to the canvas": (
        "    def begin(self, context):\n"
        "        kept = []\n"
        "        def rule(view):\n"
        "            if view.step == 0:\n"
        "                kept[:] = [view.canvas]\n"
        "            changed = (kept[0] != view.canvas).sum(-1, keepdim=True)\n"
        "            bound = torch.where(changed > 3, 0.3, self.tau)\n"
        "            sure = (view.confidence >= bound) & view.candidates\n"
        "            return Decision(sure | best(view.confidence, view.candidates))\n"
        "        return rule\n",
        ["rows"],
        "and copy what is kept of a view",
        "def rule(view):",
    ),
    "takes answers back": (
        SELECT + "        place = torch.arange(32, device=view.tokens.device).expand_as(view.tokens)\n"
        "        commit = view.candidates & ((place < 31) | (view.step > 0))\n"
        "        again = torch.where(place == 5, 9, view.tokens)\n"
        "        remask = (place == 5) if view.step == 1 else None\n"
        "        return Decision(commit, tokens=again if view.step == 2 else None, remask=remask)\n",
        ["stop"],
        "answers differ from those under eot decode; finished answers are remasked",
        "def select(self, view)",
    ),
    "chooses filled positions": (
        SELECT + "        return Decision(torch.ones_like(view.candidates) & (view.confidence >= self.tau)"
        " | best(view.confidence, view.candidates))\n",
        ["candidates"],
        "choices were no candidates; the engine ignores those",
        "def select(self, view)",
    ),
    "leaves the choice to the engine": (
        SELECT + "        return Decision((view.confidence >= 0.99) & view.candidates)\n",
        ["progress"],
        "steps had to be forced, as nothing was chosen; unless",
        "def select(self, view)",
    ),
}


@pytest.fixture(autouse=True)
def brief(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model of random weights in mini's place, but where a filter or a user asks for mini itself.

    Nothing here asks how fast a rule is, so its time is taken once.
    """
    monkeypatch.setattr(conformance, "SPEED_ROUNDS", 1)
    if request.node.name not in ("test_built_ins_pass[learn2pd]", "test_command[chooses filled positions-0]"):
        small = {"mini": random_host(), "analytic": registry.load_host("analytic")}
        monkeypatch.setattr(conformance, "load_host", lambda name, **_: small[name])


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in; returns the file that holds the strategy."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bad.py"


@pytest.mark.parametrize("name", OWN)
def test_built_ins_pass(name: str) -> None:
    """A strategy that ships with the harness passes every check, with its defaults."""
    report = kit.check(name)

    assert [row for row in report.checks if row.status == "fail"] == []
    assert report.ok
    assert [row.name for row in report.checks] == ["builds", "knob", *ORDER]
    assert "skip" not in [row.status for row in report.checks]


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_fails_the_check_meant_for_it(mistake: str, write: Path) -> None:
    """A mistake shows in one row, which says what to do and quotes the line; rows it would mislead are not run."""
    code, names, reason, line = BAD[mistake]
    write.write_text(HEAD + code)
    report = kit.check("./bad.py:Bad")

    status = "warn" if names[0] in ("candidates", "progress", "stop") else "fail"
    found = [row for row in report.checks if row.status in ("fail", "warn")]
    assert [(row.name, row.status) for row in found] == [(name, status) for name in names]
    assert reason in found[0].detail
    number = 1 + (HEAD + code)[: (HEAD + code).index(line)].count("\n")
    assert str(found[0].where).startswith(f"bad.py:{number}: {line.strip()}")
    assert report.ok == (status == "warn")
    skipped = [row for row in report.checks if row.status == "skip"]
    assert all(row.detail == f"not run: see {names[0]}" for row in skipped)
    assert bool(skipped) == (names[0] in ("decision", "view", "fills", "state", "seed", "rows"))


@pytest.mark.parametrize(
    ("code", "reason", "line"),
    [
        ("import no_such_library\n", "No module named 'no_such_library'", "bad.py:1: import no_such_library"),
        ("class Bad(:\n", "SyntaxError", "bad.py:1: class Bad(:"),
        ("class Bad: pass\n", "expected a class decorated with @dataclass(frozen=True)", ""),
        (
            HEAD
            + "    def __post_init__(self):\n        raise ValueError('tau: got 0.9, expected more')\n"
            + SELECT
            + GOOD,
            "tau: got 0.9, expected more; it must build from its defaults",
            "raise ValueError",
        ),
        (
            HEAD + "    def __post_init__(self):\n        self.tau = 1\n" + SELECT + GOOD,
            "FrozenInstanceError",
            "",
        ),
    ],
)
def test_what_cannot_be_built_is_one_failed_row(code: str, reason: str, line: str, write: Path) -> None:
    """A plugin that cannot be imported or made fails `builds`, with the reason and its line."""
    write.write_text(code)
    report = kit.check("./bad.py:Bad")

    (row,) = report.checks
    assert (row.name, row.status) == ("builds", "fail")
    assert reason in row.detail
    assert line in str(row.where)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treshold", "did you mean 'threshold'"),
        ("threshold:tau=2", r"got 2.0, expected a probability"),
        ("threshold:ta=0.9", "'ta'"),
        ("./nowhere.py:Bad", "there is no file"),
    ],
)
def test_what_is_no_strategy_is_refused(text: str, message: str) -> None:
    """A name nobody knows, or a value the user wrote, is a usage error and no finding about a plugin."""
    with pytest.raises(UsageError, match=message):
        kit.check(text)


def test_memory_and_remasking_are_fine(write: Path) -> None:
    """A rule with memory in its closure, looked up by row, that remasks each position once, passes."""
    write.write_text(
        HEAD
        + """
    def begin(self, context):
        kept = {}
        def rule(view):
            if view.step == 0:
                kept["doubted"] = torch.zeros_like(view.candidates)
            doubt = ~view.candidates & (view.confidence < 0.2) & ~kept["doubted"]
            kept["doubted"] = kept["doubted"] | doubt
            sure = view.candidates & (view.confidence > 0.9)
            return Decision(sure | best(view.confidence, view.candidates), remask=doubt)
        return rule
"""
    )
    report = kit.check("./bad.py:Bad:tau=0.5")
    statuses = {row.name: row.status for row in report.checks}

    assert report.ok, report.checks
    assert report.strategy == "./bad.py:Bad:tau=0.5"
    assert {*statuses.values()} <= {"pass", "info", "warn"}


def test_a_strategy_may_refuse_a_host(write: Path) -> None:
    """One that needs a certain tokenizer, and says so in `begin` with an error for the user, is no failure."""
    write.write_text(
        HEAD
        + """
    def begin(self, context):
        if context.vocab_size < 100:
            raise UsageError("bad: got a model of few tokens, expected mini; use --model mini")
        return self.select
"""
        + SELECT
        + GOOD
    )
    report = kit.check("./bad.py:Bad")
    fills = next(row for row in report.checks if row.name == "fills")

    assert report.ok
    assert "analytic refused (UsageError: bad: got a model of few tokens" in fills.detail


@pytest.mark.parametrize(("mistake", "code"), [("reads with item()", 1), ("chooses filled positions", 0)])
def test_command(
    mistake: str, code: int, write: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1 if a check failed; the table has reason and line, and `--json` the same for programs."""
    write.write_text(HEAD + BAD[mistake][0])
    monkeypatch.setattr(kit, "check", functools.cache(kit.check))
    shown = []
    for words in (["--json"], []):
        monkeypatch.setattr(sys, "argv", ["l2pd-bench", "check", "./bad.py:Bad", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        shown.append(capsys.readouterr().out)

    rows = json.loads(shown[0])["checks"]
    assert json.loads(shown[0])["ok"] == (code == 0)
    (row,) = [row for row in rows if row["status"] in ("fail", "warn")]
    flat = " ".join(shown[1].split())
    assert f"{row['name']} {row['status']}" in flat
    assert row["where"].split()[0] in flat and "-> bad.py:" in flat
