"""Replays: what was recorded and nothing else is shown, in a terminal and in a pipe."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_factory import manifest, record, sample
from rich.cells import cell_len
from rich.console import Console
from test_cli import call

from l2pd_bench import replay, runner
from l2pd_bench.errors import RecordError, UsageError
from l2pd_bench.picture import MASK, SPECIAL, UNPRINTABLE, Picture, plain_line, visible
from l2pd_bench.plan import make_plan
from l2pd_bench.records import Run, load_runs
from l2pd_bench.replay import Take, find_takes, leads_to, plain, play
from l2pd_bench.schema import Nfe
from l2pd_bench.trace import Trace, TraceFile, TraceStep, read_traces

ESCAPE = "\x1b"
HOSTILE = ["[bold red]a[/]", "\x1b[2J\x1b]0;owned\x07", "\u202egnp.exe", "</script>", "line\r\nover", "\t\x00\x9b31m"]


def step(columns: list[int], tokens: list[int], remasked: list[int] | None = None, end: int = 6) -> TraceStep:
    """A step of a canvas of two blocks of three."""
    first = 3 * (min(columns) // 3)
    sure = [1.0 - 0.1 * column for column in columns]
    return TraceStep(
        block=(first, first + 3), columns=columns, tokens=tokens, confidences=sure, remasked=remasked or [], end=end
    )


# 7 stands for "a", 8 for " b", 9 for a new line, 1 for EoT
TRACE = Trace(
    doc_id="mini-math/000",
    prompt="why?",
    gen_length=6,
    vocabulary={7: "a", 8: " b", 9: "\n", 1: ""},
    steps=[step([0, 2], [7, 8]), step([1], [9], remasked=[0]), step([0], [8]), step([3, 4], [7, 1], end=5)],
)
OUTPUT = [8, 9, 8, 7, 1]


def recorded(root: Path, trace: Trace | None = TRACE, spec: str = "threshold", **setting: Any) -> Path:
    """The folder of a run of one sample, whose tokens are `OUTPUT`, with this trace."""
    one = sample(0, nfe=Nfe(full=4, window=0, auxiliary=0), output_ids=OUTPUT, full_text=" b\n ba")
    one = replace(one, tokens=replace(one.tokens, gross=6), correct=True)
    folder = record(root, manifest(spec, planned=1, **setting), [one]).folder
    if trace is not None:
        with TraceFile(folder) as file:
            file.append([trace])
    return folder


def frames(trace: Trace, width: int = 40, height: int = 30) -> list[str]:
    """What a terminal without colours shows after each step."""
    picture = Picture("title", trace.gen_length, trace.vocabulary.__getitem__, len(trace.steps))
    shown = []
    for told in trace.steps:
        picture.apply(told)
        console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
        console.print(picture)
        assert isinstance(console.file, io.StringIO)
        shown.append(console.file.getvalue())
    return shown


def inner(frame: str) -> list[str]:
    """The canvas of a frame, without its border."""
    return [line[2:-2].rstrip() for line in frame.splitlines()[1:-1]]


class TestPicture:
    def test_steps_by_hand(self) -> None:
        """Masks are dots, tokens their texts, emptied ones dots again, and what is cut off is gone."""
        assert [inner(frame) for frame in frames(TRACE)] == [
            ["a· b···"],
            ["·↵", " b···"],
            [" b↵", " b···"],
            [" b↵", " ba∎"],
        ]

    def test_state(self) -> None:
        """The step's number, what it did and what is left stand in words, legible without colours."""
        states = [frame.splitlines()[-1].strip("╰─╯ ") for frame in frames(TRACE, width=80)]

        assert states == [
            "forward 1 of 4: 2 filled; 4 masks left",
            "forward 2 of 4: 1 filled, 1 emptied; 4 masks left",
            "forward 3 of 4: 1 filled; 3 masks left",
            "forward 4 of 4: 2 filled; 0 masks left",
        ]

    def test_colours(self) -> None:
        """Steps differ in hue, an unsure token is greyer than a sure one, and only the newest are underlined."""
        picture = Picture("t", 3, lambda token: "x", 2)
        told = TraceStep(block=(0, 3), columns=[0, 1], tokens=[7, 7], confidences=[1.0, 0.2], remasked=[], end=3)
        picture.apply(told)
        picture.apply(replace(told, columns=[2], tokens=[7], confidences=[1.0]))
        (line,) = picture._lines(20)[0]
        sure, unsure, newest = (line.get_style_at_offset(Console(), at) for at in range(3))

        def spread(style: Any) -> int:
            red, green, blue = style.color.triplet
            return max(red, green, blue) - min(red, green, blue)

        assert sure.color != newest.color
        assert spread(sure) == pytest.approx(spread(newest), abs=2)
        assert spread(unsure) < spread(sure) / 2
        assert (bool(sure.underline), bool(newest.underline)) == (False, True)

    @pytest.mark.parametrize("width", [5, 6, 11, 30])
    def test_fits(self, width: int) -> None:
        """No line is wider than there is room, even with wide characters, and no token is lost."""
        texts = {1: "漢字", 2: "abcdefghij", 3: "e", 4: "\n  ", 5: ""}
        tokens = [1, 2, 3, 4, 5] * 3
        told = TraceStep(
            block=(0, 16), columns=list(range(15)), tokens=tokens, confidences=[0.5] * 15, remasked=[], end=16
        )
        picture = Picture("t", 16, texts.__getitem__)
        picture.apply(told)
        lines, _ = picture._lines(width - 4)

        assert all(cell_len(line.plain) <= max(width - 4, 2) for line in lines)
        assert "".join(line.plain for line in lines) == "".join(map(visible, [texts[t] for t in tokens])) + MASK

    def test_high_canvas(self) -> None:
        """Of a canvas that is higher than the terminal the newest tokens' part is shown."""
        told = [
            TraceStep(block=(0, 400), columns=[at], tokens=[at], confidences=[1.0], remasked=[], end=400)
            for at in (0, 200, 399)
        ]
        trace = replace(TRACE, gen_length=400, steps=told, vocabulary={0: "X", 200: "Y", 399: "Z"})
        for frame, letter in zip(frames(trace, width=24, height=10), "XYZ", strict=True):
            assert letter in "".join(inner(frame))
            assert len(frame.splitlines()) <= 10

    @pytest.mark.parametrize("text", HOSTILE)
    def test_hostile_texts(self, text: str) -> None:
        """Markup is shown as it is written, and no control character of a token or title gets out."""
        trace = replace(TRACE, vocabulary=dict.fromkeys((7, 8, 9, 1), text), prompt=text)
        picture = Picture(text, 6, trace.vocabulary.__getitem__)
        for told in trace.steps:
            picture.apply(told)
        console = Console(file=io.StringIO(), width=200, color_system=None, force_terminal=False)
        console.print(picture)
        assert isinstance(console.file, io.StringIO)
        shown = [*console.file.getvalue().split("\n"), *(plain_line(trace, number) for number in range(4))]

        assert all(line.isprintable() for line in shown)
        if text.startswith("[bold"):
            assert sum(text in line for line in shown) >= 6
        assert visible("\x1b") == UNPRINTABLE and visible("") == SPECIAL


class TestPlain:
    def test_by_hand(self, tmp_path: Path) -> None:
        """A line for each step says what was filled, how surely, what was emptied and where the canvas was cut."""
        takes = find_takes([recorded(tmp_path)], "mini-math/000")

        assert list(plain(takes)) == [
            "prompt: 'why?'",
            "threshold, cache none, EoT decode: mini-math/000",
            "1/4  block 0-2  0:'a' 1.00  2:' b' 0.80",
            "2/4  block 0-2  1:'\\n' 0.90  emptied 0",
            "3/4  block 0-2  0:' b' 1.00",
            "4/4  block 3-5  3:'a' 0.70  4:∎ 0.60  ends before 5",
            "text: ' b\\n ba' (right, 4 forwards, 20 tokens)",
        ]

    def test_two_in_lockstep(self, tmp_path: Path) -> None:
        """Two runs take turns, step by step, under the names A and B; the longer one goes on alone."""
        one = recorded(tmp_path, cache="none")
        short = replace(TRACE, steps=[step([0, 1, 2], [8, 9, 8]), step([3, 4], [7, 1], end=5)])
        other = recorded(tmp_path / "b", None, spec="factor", cache="dual")
        takes = find_takes([one], "000")
        takes.append(Take(load_runs(other)[0], load_runs(other)[0].samples[0], short))
        lines = list(plain(takes))

        assert lines[1:3] == [
            "A threshold, cache none, EoT decode: mini-math/000",
            "B factor, cache dual, EoT decode: mini-math/000",
        ]
        assert [line[:5] for line in lines[3:]] == [
            "A 1/4",
            "B 1/2",
            "A 2/4",
            "B 2/2",
            "A 3/4",
            "A 4/4",
            "A tex",
            "B tex",
        ]

    def test_pipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Into a pipe the command writes these lines, with --plain or without."""
        folder = recorded(tmp_path)
        wanted = "".join(line + "\n" for line in plain(find_takes([folder], "000")))
        for words in ([], ["--plain"]):
            assert call(monkeypatch, "replay", folder, "000", *words) == 0
            assert capsys.readouterr().out == wanted

    def test_a_stored_trace_needs_no_model(self, tmp_path: Path) -> None:
        """A sample with a trace is shown without torch being loaded."""
        folder = recorded(tmp_path)
        code = (
            "import sys; from pathlib import Path; from l2pd_bench import replay\n"
            f"lines = list(replay.plain(replay.find_takes([Path({str(folder)!r})], '000')))\n"
            "assert len(lines) == 7 and 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestPlay:
    def test_terminal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a terminal every step of both runs is drawn, at the pace that was asked for, and the outcome stays."""
        pauses: list[float] = []
        monkeypatch.setattr(replay, "sleep", pauses.append)
        folders = [recorded(tmp_path, cache=cache) for cache in ("none", "dual")]
        console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True, color_system="truecolor")
        play(find_takes(folders, "000"), console, speed=4.0)

        assert isinstance(console.file, io.StringIO)
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
        assert pauses == [replay.STEP_S / 4] * 4
        for number in range(1, 5):
            assert shown.count(f"forward {number} of 4") >= 2
        assert "prompt: why?" in shown and "cache dual, EoT decode: mini-math/000: right, 4 forwards" in shown

    def test_interrupted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C ends a replay, and leaves the terminal as it was."""

        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(replay, "sleep", interrupt)
        console = Console(file=io.StringIO(), force_terminal=True)
        play(find_takes([recorded(tmp_path)], "000"), console)

        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")


def small(output: Path, **options: Any) -> list[Run]:
    """Decode a few samples, traced."""
    chosen = {
        **{
            "model": "analytic",
            "task": ["analytic-shuffle"],
            "strategy": ["fixed-step", "oracle", "threshold:tau=0.4"],
        },
        **{"temperature": 0.7, "gen_length": [16], "block_length": 8, "batch_size": [3], "limit": 5},
        **{"eot": ["predict"], "trace": True, "output": output, **options},
    }
    runner.execute(make_plan(None, chosen), command="l2pd-bench run ...")
    return load_runs(output)


class TestWithoutTrace:
    def test_the_same_by_decoding_again(self, tmp_path: Path) -> None:
        """Decoded again, every sample of every strategy has the very trace that was stored; nothing is written."""
        for run in small(tmp_path):
            traces = read_traces(run.folder)
            (run.folder / "trace.jsonl").unlink()
            files = {path: path.read_bytes() for path in run.folder.iterdir()}
            for doc_id in (run.samples[0].doc_id, run.samples[4].doc_id):
                (take,) = find_takes([run.folder], doc_id)
                assert take.trace == traces[doc_id]
                assert leads_to(take.trace, take.sample)
            assert {path: path.read_bytes() for path in run.folder.iterdir()} == files

    def test_other_tokens(self, tmp_path: Path) -> None:
        """A sample that is decoded otherwise than it is recorded is not shown."""
        (tmp_path / "mine.py").write_text(
            "import torch\nfrom l2pd_bench.strategies.base import Decision, Strategy\n"
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine(Strategy):\n"
            "    name = 'mine'\n    def select(self, view):\n"
            "        return Decision(view.candidates, tokens=torch.randint(2, 20, view.tokens.shape))\n"
        )
        (run,) = small(tmp_path / "out", strategy=[f"{tmp_path}/mine.py:Mine"], trace=False)
        with pytest.raises(RecordError, match=r"'analytic-shuffle/000' cannot be shown, .* got other tokens"):
            find_takes([run.folder], "000")


BROKEN: dict[str, Trace] = {
    "other token": replace(TRACE, steps=[*TRACE.steps[:3], step([3, 4], [7, 7], end=5)]),
    "other end": replace(TRACE, steps=[*TRACE.steps[:3], step([3, 4], [7, 1])]),
    "a mask left": replace(TRACE, steps=[*TRACE.steps[:3], step([3], [7], end=5)]),
    "a step more": replace(TRACE, steps=[*TRACE.steps, step([5], [7], end=5)]),
    "no steps": replace(TRACE, steps=[]),
    "a column too far": replace(TRACE, steps=[step([0, 99], [7, 8]), *TRACE.steps[1:]]),
    "no text": replace(TRACE, vocabulary={7: "a", 8: " b", 9: "\n"}),
    "too sure": replace(TRACE, steps=[replace(TRACE.steps[0], confidences=[2.0, 0.5]), *TRACE.steps[1:]]),
    "a token too few": replace(TRACE, steps=[replace(TRACE.steps[0], tokens=[7]), *TRACE.steps[1:]]),
}


class TestWrongUse:
    @pytest.mark.parametrize("broken", BROKEN)
    def test_a_trace_of_something_else(self, broken: str, tmp_path: Path) -> None:
        """A trace that does not lead to the recorded tokens is refused, with what to do."""
        folder = recorded(tmp_path, BROKEN[broken])
        with pytest.raises(RecordError, match=r"trace of 'mini-math/000' does not lead to the recorded .* --trace"):
            find_takes([folder], "000")

    def test_unknown_sample(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A sample that is not recorded is named with the nearest ones, in one line, with exit code 2."""
        folder = record(tmp_path, manifest(planned=30), [sample(i) for i in range(30)]).folder
        code = call(monkeypatch, "replay", folder, "mini-math/0007")

        shown = capsys.readouterr().err
        assert code == 2 and shown.count("\n") == 1
        assert "got 'mini-math/0007'" in shown and "the nearest are mini-math/007" in shown

    def test_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A folder of several runs, an empty one and none at all are told apart."""
        one, _ = recorded(tmp_path / "a"), recorded(tmp_path / "a", cache="dual")
        (tmp_path / "empty").mkdir()
        for folder, wanted in (
            (tmp_path / "a", "with 2 runs"),
            (tmp_path / "empty", "without any run"),
            ("no", "no such"),
        ):
            assert call(monkeypatch, "replay", folder, "000") == 2
            assert wanted in capsys.readouterr().err
        assert call(monkeypatch, "replay", one, "000", "--other", tmp_path / "no") == 2
        assert "no such folder" in capsys.readouterr().err

    def test_other_items(self, tmp_path: Path) -> None:
        """Runs of different tasks or data are not set side by side, though their items may be named alike."""
        folder = recorded(tmp_path)
        with pytest.raises(UsageError, match=r"task 'mini-math' and 'mini-code'"):
            find_takes([folder, recorded(tmp_path, task="mini-code")], "000")
        with pytest.raises(UsageError, match=r"data_hash '.*' and 'ef'"):
            find_takes([folder, recorded(tmp_path / "b", data_hash="ef")], "000")

    @pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf"])
    def test_speed(
        self, speed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A pace that is none is refused before anything is read."""
        assert call(monkeypatch, "replay", tmp_path / "no", "000", "--speed", speed) == 2
        assert capsys.readouterr().err.startswith(f"error: speed: got {float(speed)}")
