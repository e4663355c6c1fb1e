"""Plots of a board: by letters on a terminal, as SVG and PNG for a paper."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from record_factory import manifest, one_section, record, sample
from rich.console import Console
from sweep_factory import CURVE, swept
from test_cli import call

from l2pd_bench.errors import UsageError
from l2pd_bench.report import Board, make_board
from l2pd_bench.report.board import Section
from l2pd_bench.report.figure import COLOURS, GAP, check_figure, spread, write_figure
from l2pd_bench.report.plot import HEIGHT, MARGIN, plot, print_plots
from l2pd_bench.report.series import percent_axis, series_of, speed_axis

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    """A curve, the baseline, a row on no curve, and an oracle."""
    return one_section(*swept(tmp_path_factory.mktemp("runs"), {**CURVE, "other": 30, "oracle": 50}))


@pytest.fixture(scope="module")
def drawn(section: Section, tmp_path_factory: pytest.TempPathFactory) -> ET.Element:
    """The figure of the section."""
    path = tmp_path_factory.mktemp("figure") / "curves.svg"
    write_figure(Board((), (section,)), path)
    return ET.parse(path).getroot()


def parts(lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The canvas over TPS, that over TPF, and what stands below them."""
    begins = [i for i, line in enumerate(lines) if line.startswith("accuracy (%) over ")]
    canvases = [lines[i + 1 : i + 1 + HEIGHT] for i in begins]
    return canvases[0], canvases[1], lines[begins[1] + 1 + HEIGHT :]


def places(canvas: list[str]) -> dict[str, list[tuple[int, int]]]:
    """Line and column of every letter of a canvas."""
    found: dict[str, list[tuple[int, int]]] = {}
    for i, line in enumerate(canvas):
        for j, letter in enumerate(line[MARGIN + 2 :]):
            found.setdefault(letter, []).append((i, j))
    found.pop(" ", None)
    return found


class TestTerminal:
    def test_letters(self, section: Section) -> None:
        """Every row has its letter where its numbers say, capital on the frontier, and the key names the series."""
        _, canvas, below = parts(plot(section, 80))
        found = places(canvas)
        label = {line[0]: line[2:] for line in below if line[1:2] == " " and not line[0].isspace()}
        letters = {name: letter for letter, name in label.items()}

        assert set(label.values()) == {"rule (x)", "fixed-step", "other", "oracle (not deployable)"}
        assert letters["oracle (not deployable)"] == "*"
        curve, base = letters["rule (x)"], letters["fixed-step"]
        assert len(found.get(curve, []) + found[curve.upper()]) == 4
        assert len(found[base]) == 1 and base.upper() not in found  # as good as x=2, and slower
        assert section.frontier is not None and len(found[curve.upper()]) == len(section.frontier.by_tpf)
        # faster is further right, more accurate is higher
        rows = {row.spec: row for row in section.rows}
        ordered = sorted(found.get(curve, []) + found[curve.upper()], key=lambda place: place[1])
        for (line, column), spec in zip(ordered, ["rule:x=2", "rule:x=4", "rule:x=8", "rule:x=16"], strict=True):
            row = rows[spec]
            axis = speed_axis([r.tpf or 0 for r in section.rows])
            assert column == round((row.tpf or 0) / axis.high * (80 - MARGIN - 3))
            assert line == round((100 - (row.accuracy or 0)) / (100 - 40) * (HEIGHT - 1))

    @pytest.mark.parametrize("width", [60, 80, 100, 200])
    def test_width(self, section: Section, width: int) -> None:
        """No line is wider than the terminal, nor than what can be read."""
        lines = plot(section, min(width, 100))
        assert max(map(len, lines)) <= min(width, 100)
        console = Console(width=width, file=io.StringIO(), color_system=None)
        print_plots(Board((), (section,)), console)
        assert isinstance(console.file, io.StringIO)
        assert max(len(line) for line in console.file.getvalue().splitlines()) <= width

    def test_ascii(self, section: Section) -> None:
        """Everything but a strategy's own name is ASCII."""
        assert all(line.isascii() for line in plot(section, 80))

    def test_ascii_terminal(self, tmp_path: Path) -> None:
        """A terminal that knows nothing but ASCII gets its plots."""
        swept(tmp_path, CURVE)
        code = (
            "import sys; from pathlib import Path; from rich.console import Console\n"
            "from l2pd_bench.records import load_runs; from l2pd_bench.report import make_board\n"
            "from l2pd_bench.report.plot import print_plots\n"
            "print_plots(make_board(load_runs(Path(sys.argv[1]))), Console())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env={"PYTHONIOENCODING": "ascii"}, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert b"accuracy (%) over TPF" in done.stdout

    def test_one_point(self, tmp_path: Path) -> None:
        """One row is one point on two plots."""
        tps, tpf, _ = parts(plot(one_section(*swept(tmp_path, {"fixed-step": 45})), 80))
        assert [sum(map(len, places(canvas).values())) for canvas in (tps, tpf)] == [1, 1]

    def test_nothing(self, tmp_path: Path) -> None:
        """Where no row is finished and graded, one sentence says so."""
        half = record(tmp_path, manifest(planned=9), [sample(0)], finished=False)
        assert plot(one_section(half), 80) == ["nothing to plot: no row is finished and graded"]

    def test_equal_points(self, tmp_path: Path) -> None:
        """Rows of several series at the same place are one mark, another one where the frontier is."""
        same = {"fixed-step": 45, "a:x=1": 45, "b:x=1": 45}
        _, canvas, _ = parts(plot(one_section(*swept(tmp_path / "one", same)), 80))
        assert list(places(canvas)) == ["@"]
        worse = one_section(*swept(tmp_path / "two", {"fixed-step": 45, "a:x=1": 40, "b:x=1": 40}))
        assert "#" in places(parts(plot(worse, 80))[1])

    def test_many_series(self, tmp_path: Path) -> None:
        """More series than letters are all drawn and named; the last ones share a dot."""
        names = {f"rule{i}:x={i}": 40 + i % 5 for i in range(2, 32)}
        lines = plot(one_section(*swept(tmp_path, {"fixed-step": 45, **names})), 80)
        assert sum(line.startswith(". ") for line in lines) == 31 - 26

    def test_invalid(self, section: Section) -> None:
        """INVALID rows are drawn, and said to be."""
        rows = tuple(replace(row, invalid=("drift",)) for row in section.rows)
        lines = plot(replace(section, rows=rows, frontier=None), 80)
        assert lines[-1].startswith(f"INVALID, drawn but on no frontier: {len(rows)} rows")

    def test_hostile_name(self, tmp_path: Path) -> None:
        """Control sequences and markup in a name are text."""
        console = Console(width=80, file=io.StringIO(), color_system=None)
        run = swept(tmp_path, {"fixed-step": 45})[0]
        strategy = replace(run.manifest.strategy, spec="[red]x\x1b[31m", name="x")
        print_plots(make_board([replace(run, manifest=replace(run.manifest, strategy=strategy))]), console)
        assert isinstance(console.file, io.StringIO)
        assert "[red]x?[31m" in console.file.getvalue()


class TestAxes:
    @pytest.mark.parametrize("values", [[0.0], [100.0], [50.0], [0.0, 100.0], [97.5, 100.0], [61.0, 63.0], [0.1, 4.0]])
    def test_percent(self, values: list[float]) -> None:
        """An axis of percentages holds its values, lies in 0 to 100 and has two to seven round ticks."""
        low, high, ticks = percent_axis(values)

        assert 0 <= low <= min(values) <= max(values) <= high <= 100 and low < high
        assert (ticks[0], ticks[-1]) == (low, high) or high - ticks[-1] < ticks[1] - ticks[0]
        assert 2 <= len(ticks) <= 7
        assert all(tick == int(tick) for tick in ticks)

    @pytest.mark.parametrize("exponent", range(-6, 7))
    @pytest.mark.parametrize("value", [1.0, 1.5, 2.0, 3.3, 5.0, 7.7, 9.99])
    def test_speed(self, value: float, exponent: int) -> None:
        """An axis of speeds begins at 0, ends little above the fastest, and has some round ticks."""
        fastest = value * 10.0**exponent
        low, high, ticks = speed_axis([fastest, fastest / 9])

        assert (low, ticks[0]) == (0, 0) and fastest < high < 1.1 * fastest
        assert 3 <= len(ticks) <= 8 and ticks[-1] <= high
        step = ticks[1] / 10.0 ** math.floor(math.log10(ticks[1]) + 1e-9)
        assert min(abs(step - round_one) for round_one in (1, 2, 5)) < 1e-6


class TestFigure:
    def test_words(self, drawn: ET.Element, section: Section) -> None:
        """Text is text: both axes, every series at both panels, what the marks mean; and the picture has a title."""
        words = [" ".join(t.itertext()) for t in drawn.iter(f"{SVG}text")]
        title = drawn.find(f"{SVG}title")

        assert title is not None and section.title in (title.text or "")
        assert next(iter(drawn)).tag == f"{SVG}title"  # what a screen reader takes for the name
        for word in ["accuracy (%)", *(series.label for series in series_of(section))]:
            assert words.count(word) == 2, word
        assert any(word.startswith("TPS: ") for word in words) and any(word.startswith("TPF: ") for word in words)
        assert any("95 % intervals" in word and "Pareto frontier" in word for word in words)

    def test_marks(self, drawn: ET.Element) -> None:
        """Every series has a colour of its own kind and a marker of its own; rows on the frontier are filled."""
        style = [use.get("style") or "" for use in drawn.iter(f"{SVG}use")]
        marks: dict[str, set[str]] = {}
        for use in drawn.iter(f"{SVG}use"):
            if (found := re.search(r"stroke: (#\w+)", use.get("style") or "")) and "fill" in (use.get("style") or ""):
                marks.setdefault(found[1].upper(), set()).add(str(use.get("{http://www.w3.org/1999/xlink}href")))

        assert {c.upper() for c in COLOURS[:2]} <= set(marks)
        assert any(f"fill: {COLOURS[0].lower()}" in s for s in style)  # on the frontier
        assert any("fill: #ffffff" in s for s in style)  # not on it

    def test_the_same_again(self, tmp_path: Path) -> None:
        """Equal boards give equal files, SVG and PNG, in another process too, whatever the user's own style is."""
        swept(tmp_path / "runs", CURVE)
        (tmp_path / "none").write_text("")
        (tmp_path / "own").write_text("axes.grid: True\nlines.linewidth: 9\n")
        code = (
            "import sys; from pathlib import Path\n"
            "from l2pd_bench.records import load_runs; from l2pd_bench.report import make_board\n"
            "from l2pd_bench.report.figure import write_figure\n"
            "board = make_board(load_runs(Path('runs')))\n"
            "[write_figure(board, Path(name)) for name in sys.argv[1:]]\n"
        )
        for i, rc in enumerate(("none", "own")):
            names = [f"{i}.svg", f"{i}.png"]
            env = {"PYTHONHASHSEED": str(i), "MATPLOTLIBRC": str(tmp_path / rc), "HOME": str(tmp_path)}
            subprocess.run([sys.executable, "-c", code, *names], cwd=tmp_path, env=env, check=True)

        for suffix in ("svg", "png"):
            one, two = ((tmp_path / f"{i}.{suffix}").read_bytes() for i in (0, 1))
            assert one == two
        assert b"<dc:date>" not in (tmp_path / "0.svg").read_bytes()
        assert (tmp_path / "0.png").read_bytes().startswith(b"\x89PNG")

    def test_hostile_name(self, tmp_path: Path) -> None:
        """A name is neither markup nor mathematics, and what XML cannot hold is left out."""
        runs = []
        for run in swept(tmp_path, {"slow:x=1": 45, "fast:x=9": 45}):  # beside its point, and in the margin
            name = f"<script>$\\frac$\x00 & {run.manifest.strategy.name}"
            strategy = replace(run.manifest.strategy, spec=name, name=name)
            runs.append(replace(run, manifest=replace(run.manifest, strategy=strategy)))
        write_figure(make_board(runs), tmp_path / "x.svg")
        root = ET.parse(tmp_path / "x.svg").getroot()

        assert not [node for node in root.iter() if node.tag.endswith("script")]
        words = " ".join(" ".join(t.itertext()) for t in root.iter(f"{SVG}text"))
        assert words.count("<script>$\\frac$? & slow") == words.count("<script>$\\frac$? & fast") == 2

    def test_many_sections(self, board: Board, tmp_path: Path) -> None:
        """Every section has its title and its panels, one below the other."""
        write_figure(board, tmp_path / "all.svg")
        root = ET.parse(tmp_path / "all.svg").getroot()
        words = [" ".join(t.itertext()) for t in root.iter(f"{SVG}text")]

        assert words.count("accuracy (%)") == 2 * len(board.sections)
        assert sum(word.startswith(section.title[:40]) for section in board.sections for word in words) >= 3
        assert float((root.get("height") or "")[:-2]) > 600

    def test_machines(self, section: Section, tmp_path: Path) -> None:
        """Rows of different machines are not drawn over TPS."""
        manifest_of = section.rows[0].run.manifest
        odd = replace(section.rows[0].run, manifest=replace(manifest_of, environment={"cores": 99}))
        write_figure(
            Board((), (replace(section, rows=(replace(section.rows[0], run=odd), *section.rows[1:])),)),
            tmp_path / "x.svg",
        )
        words = [" ".join(t.itertext()) for t in ET.parse(tmp_path / "x.svg").getroot().iter(f"{SVG}text")]
        assert not any(word.startswith("TPS: ") for word in words)
        assert any(word.startswith("TPF: ") for word in words)

    def test_refused(self, section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another kind of file, no such folder, nothing to draw and a missing matplotlib are told, with what to do."""
        with pytest.raises(UsageError, match=r"expected a file that ends in \.svg or \.png"):
            check_figure(tmp_path / "x.jpg")
        with pytest.raises(UsageError, match="in a folder that is there"):
            check_figure(tmp_path / "no" / "x.svg")
        with pytest.raises(UsageError, match="nothing to draw"):
            write_figure(Board((), ()), tmp_path / "x.svg")
        monkeypatch.setattr("l2pd_bench.report.figure.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="not installed; pip install matplotlib"):
            write_figure(Board((), (section,)), tmp_path / "x.svg")

    def test_report(self, monkeypatch: pytest.MonkeyPatch, results: Path, tmp_path: Path) -> None:
        """`report --plot` draws what it shows."""
        monkeypatch.setattr(sys, "argv", ["l2pd-bench", "report", str(results), "--plot", str(tmp_path / "x.png")])
        from l2pd_bench import cli

        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None)
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
        assert call(monkeypatch, "report", results, "--plot", tmp_path / "x.doc") == 2

    def test_imports(self, results: Path) -> None:
        """Reports and `--help` do without matplotlib."""
        code = (
            "import sys; from pathlib import Path\n"
            "from l2pd_bench import cli; from l2pd_bench.records import load_runs\n"
            "from l2pd_bench.report import RENDERERS, figure, make_board, plot\n"
            "[render(make_board(load_runs(Path(sys.argv[1])))) for render in RENDERERS.values()]\n"
            "assert not {'matplotlib', 'torch'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(results)], check=True)


class TestSpread:
    def test_random(self) -> None:
        """Names keep their order and their distance, and stay on the panel as long as there is room for them."""
        for count in (1, 3, 8, 11):
            wanted = sorted((math.sin(7.0 * i) ** 2 for i in range(count)), reverse=True)
            placed = spread(wanted)
            assert all(above - below >= GAP - 1e-9 for above, below in pairwise(placed))
            assert min(placed) >= 0 and max(placed) <= 1
        assert spread([0.9, 0.2]) == [0.9, 0.2]
