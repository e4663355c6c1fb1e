"""The registry, with plugins of small distributions made on the spot."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l2pd_bench import registry
from l2pd_bench.errors import BenchError, PluginError, UsageError
from l2pd_bench.hosts.base import HostRequest
from l2pd_bench.registry import Entry, Group
from l2pd_bench.specs import Parameter

STRATEGY = """
from dataclasses import dataclass
from typing import ClassVar
from l2pd_bench.strategies.base import Decision, StepView, Strategy

@dataclass(frozen=True)
class Toy(Strategy):
    '''Commit everything.

    More about it.
    '''
    name: ClassVar[str] = "toy"
    tau: float = 1
    order: str = "up"
    cap: int | None = None

    def __post_init__(self) -> None:
        if self.order not in ("up", "down"):
            raise ValueError(f"order: got '{self.order}', expected up or down")

    def select(self, view: StepView) -> Decision:
        return Decision(view.candidates)
"""
TASK = """
class Toy:
    '''One question.'''
    name, gen_length, stop, prompt_format, few_shot, grading, data_hash = "toy", 32, (), "plain", 0, "none", "0" * 64
    def items(self): return []
    def grade(self, item, text): return None
"""
PARAMETRIC = """
from dataclasses import dataclass
from typing import ClassVar
@dataclass(frozen=True)
class Toy:
    '''Questions about a word.'''
    gen_length, stop, prompt_format, few_shot, grading, data_hash = 32, (), "plain", 0, "none", "0" * 64
    word: str
    shots: int = 0
    form: str = "base"
    data_dir: str | None = None
    def __post_init__(self):
        if self.shots > 8: raise ValueError(f"shots: got {self.shots}, expected less")
    @property
    def name(self): return f"toy:{self.word}"
    def items(self): return []
    def grade(self, item, text): return None
"""
HOST = """
def load(request):
    '''A host that is what it was asked for.'''
    return request
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution with one module and one entry point on the path; returns the module's file."""
    before = set(sys.modules)

    def make(
        distribution: str, source: str, *, group: Group = "strategies", name: str = "toy", attr: str = "Toy"
    ) -> Path:
        module = f"plugin_{distribution.replace('-', '_')}"
        site = tmp_path / distribution
        info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[l2pd_bench.{group}]\n{name} = {module}:{attr}\n")
        (info / "top_level.txt").write_text(f"{module}\n")
        file = site / f"{module}.py"
        file.write_text(source)
        monkeypatch.syspath_prepend(str(site))
        return file

    yield make
    for name in set(sys.modules) - before:
        if name.startswith(("plugin_", "l2pd_bench_file_")):
            del sys.modules[name]


def entry(group: Group, name: str) -> Entry:
    """The only entry of that name."""
    (found,) = [e for e in registry.catalog(group) if e.name == name]
    return found


class TestLoadStrategy:
    """`load_strategy`."""

    def test_makes_the_strategy_and_says_what_it_made(self, install: Install) -> None:
        """The instance has the values that were written, and the spec says all of them and where the code is from."""
        file = install("toy-dist", STRATEGY)
        strategy, spec = registry.load_strategy("toy:tau=0.5,cap=2")
        assert (strategy.tau, strategy.cap) == (0.5, 2)  # type: ignore[attr-defined]
        assert spec.name == "toy"
        assert spec.params == {"tau": 0.5, "order": "up", "cap": 2}
        assert spec.spec == "toy:cap=2,tau=0.5"
        assert spec.slug == "toy-cap2-tau0.5"
        assert (spec.distribution, spec.version) == ("toy-dist", "1.5")
        assert spec.code_hash == hashlib.sha256(file.read_bytes()).hexdigest()

    def test_defaults_are_left_out_of_the_spec_only(self, install: Install) -> None:
        """A value that equals its default is in the parameters, as the declared type, but not in the spec."""
        install("toy-dist", STRATEGY)
        _, spec = registry.load_strategy("toy:tau=1.0,cap=none")
        assert (spec.spec, spec.slug) == ("toy", "toy")
        assert spec.params == {"tau": 1.0, "order": "up", "cap": None}
        assert type(spec.params["tau"]) is float

    def test_the_spec_makes_the_same_again(self, install: Install) -> None:
        """Loading what a record stores gives an equal strategy and an equal spec."""
        install("toy-dist", STRATEGY)
        made = registry.load_strategy("toy:order=down,tau=.25")

        assert registry.load_strategy(made[1].spec) == made

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("toi", r"strategy: got 'toi', expected one of .*\btoy\b.*; did you mean 'toy'\?"),
            ("", "strategy: got '', expected one of"),
            ("toy:", "got 'toy:', expected name, name:key=value"),
            ("toy:tau", "got 'toy:tau', expected name, name:key=value"),
            ("toy:0.5", "got 'toy:0.5', expected name, name:key=value"),
            ("file.py", "got 'file.py', expected name, .*./file.py:Class"),
            ("toy:taw=1", r"strategy 'toy': parameter: got 'taw', expected one of .*; did you mean 'tau'\?"),
            ("toy:tau=x", "strategy 'toy': tau: got 'x', expected a finite number"),
            ("toy:tau=nan", "strategy 'toy': tau: got 'nan', expected a finite number"),
            ("toy:cap=1.5", "strategy 'toy': cap: got '1.5', expected a whole number or none"),
            ("toy:order=left", "strategy 'toy': order: got 'left', expected up or down"),
            ("./nowhere.py:Toy", "there is no file './nowhere.py'"),
            ("nowhere.at_all:Toy", "there is no module 'nowhere'"),
            ("plugin_toy_dist.deeper:Toy", "there is no module 'plugin_toy_dist.deeper'"),
            ("plugin_toy_dist:Toi", r"class in plugin_toy_dist: got 'Toi', expected one of Toy; did you mean 'Toy'\?"),
        ],
    )
    def test_wrong_requests(self, install: Install, text: str, message: str) -> None:
        """Every mistake in a spec is a usage error that says what was got and what is allowed."""
        install("toy-dist", STRATEGY)
        with pytest.raises(UsageError, match=message):
            registry.load_strategy(text)

    def test_by_file(self, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`./file.py:Class` is loaded from the file, under the name that was written."""
        file = install("toy-dist", STRATEGY)
        monkeypatch.chdir(file.parent)
        strategy, spec = registry.load_strategy(f"./{file.name}:Toy:tau=0.5")

        assert strategy.tau == 0.5  # type: ignore[attr-defined]
        assert spec.name == f"./{file.name}:Toy"
        assert spec.spec == f"./{file.name}:Toy:tau=0.5"
        assert (spec.distribution, spec.version) == ("(file)", None)
        assert spec.code_hash == hashlib.sha256(file.read_bytes()).hexdigest()

    def test_by_module(self, install: Install) -> None:
        """`package.module:Class` is found without being registered, and belongs to the module's distribution."""
        install("toy-dist", STRATEGY, name="other")
        _, spec = registry.load_strategy("plugin_toy_dist:Toy")
        assert spec.name == spec.spec == "plugin_toy_dist:Toy"
        assert (spec.distribution, spec.version) == ("toy-dist", "1.5")

    def test_a_broken_file_is_told_from_a_missing_one(self, install: Install) -> None:
        """An import error inside a file that was named is the plugin's fault, with the original text."""
        file = install("toy-dist", "import no_such_library")
        with pytest.raises(PluginError, match="ModuleNotFoundError: No module named 'no_such_library'"):
            registry.load_strategy(f"{file}:Toy")
        with pytest.raises(PluginError, match="ModuleNotFoundError: No module named 'no_such_library'"):
            registry.load_strategy("plugin_toy_dist:Toy")


class TestBrokenPlugins:
    """Plugins that cannot be used are listed with their error, and stop nothing else."""

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
            ("def Toy(:", "SyntaxError: invalid syntax"),
            ("import sys; sys.exit(3)", "SystemExit: 3"),
            ("Other = 1", "AttributeError: module 'plugin_toy_dist' has no attribute 'Toy'"),
            ("def Toy(): pass", r"got <function Toy at .*>, expected a class decorated with @dataclass\(frozen=True\)"),
            (STRATEGY.replace("@dataclass(frozen=True)", "@dataclass"), "got a dataclass that can change"),
            (STRATEGY.replace('ClassVar[str] = "toy"', "ClassVar[str]"), "got no name, expected `name: ClassVar"),
            (STRATEGY.replace('"toy"', '"tau"'), "got name = 'tau', expected 'toy', as it is registered"),
            (STRATEGY.replace("def select", "def choose"), r"got neither select\(\) nor begin\(\)"),
            (
                STRATEGY.replace("(Strategy)", ""),
                r"got neither select\(\) nor begin\(\), expected a subclass of Strategy",
            ),
            (STRATEGY.replace("float = 1", "list[int] = ()"), r"parameter 'tau': got type list, expected bool, int"),
            (STRATEGY.replace("float = 1", "float = None"), "parameter 'tau': got None as default, expected float"),
            (STRATEGY.replace("float = 1", "'Elsewhere' = 1"), "name 'Elsewhere' is not defined"),
        ],
    )
    def test_strategies(self, install: Install, source: str, message: str) -> None:
        """Asking for a broken strategy and listing it give the same error; the others still work."""
        install("toy-dist", source)
        install("good-dist", STRATEGY.replace('"toy"', '"good"'), name="good")

        with pytest.raises(PluginError, match=message) as caught:
            registry.load_strategy("toy")
        assert entry("strategies", "toy").error == str(caught.value)
        assert entry("strategies", "good").error is None
        registry.load_strategy("good")
        registry.load_strategy("threshold")

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (TASK.replace("def grade", "def judge"), "got no grade, expected all of l2pd_bench.tasks.base.Task"),
            (TASK.replace('"toy"', '"tiy"'), "got name = 'tiy', expected 'toy'"),
            (TASK + "    def __init__(self): open('/nowhere/at/all')\n", "FileNotFoundError: .*/nowhere/at/all"),
        ],
    )
    def test_tasks(self, install: Install, source: str, message: str) -> None:
        """A task that lacks a part, or cannot be made, is an error with the reason."""
        install("toy-dist", source, group="tasks")
        with pytest.raises(PluginError, match=message) as caught:
            registry.load_task("toy")
        assert entry("tasks", "toy").error == str(caught.value)

    @pytest.mark.parametrize("source", ["load = 3", "def load(params, *, device): pass"])
    def test_hosts(self, install: Install, source: str) -> None:
        """A host's entry point must be a function that takes a request."""
        install("toy-dist", source, group="hosts", attr="load")
        with pytest.raises(PluginError, match=r"expected a function load\(request\)") as caught:
            registry.load_host("toy")
        assert entry("hosts", "toy").error == str(caught.value)

    def test_errors_for_the_user_pass_through(self, install: Install) -> None:
        """A task that says itself what the user must do is quoted as it is."""
        source = "from l2pd_bench.errors import BenchError\ndef Toy(): raise BenchError('toy: got no data; give some')"
        install("toy-dist", source, group="tasks")
        with pytest.raises(BenchError, match=r"^toy: got no data; give some$"):
            registry.load_task("toy")
        assert entry("tasks", "toy").error == "toy: got no data; give some"

    def test_a_name_given_twice(self, install: Install) -> None:
        """A name that two distributions register is refused, and both are named, also in the listing."""
        install("first-dist", STRATEGY)
        install("second-dist", STRATEGY)
        with pytest.raises(PluginError, match=r"'toy': got it from first-dist .* and second-dist .*, expected one"):
            registry.load_strategy("toy")

        twins = [e for e in registry.catalog("strategies") if e.name == "toy"]
        assert sorted(e.distribution for e in twins) == ["first-dist", "second-dist"]
        assert all("first-dist" in str(e.error) and "second-dist" in str(e.error) for e in twins)


class TestCatalog:
    """`catalog`, and the switch."""

    def test_says_what_a_plugin_is(self, install: Install) -> None:
        """An entry has the first line of the docstring, the parameters and the origin."""
        install("toy-dist", STRATEGY)
        parameters = (
            Parameter("tau", "float", default=1.0),
            Parameter("order", "str", default="up"),
            Parameter("cap", "int", optional=True),
        )
        expected = Entry("toy", "toy-dist", "1.5", "plugin_toy_dist:Toy", "Commit everything.", parameters)
        assert entry("strategies", "toy") == expected

    def test_tasks_and_hosts(self, install: Install) -> None:
        """They are listed by the first line of their docstring, and have no parameters to show."""
        install("task-dist", TASK, group="tasks")
        install("host-dist", HOST, group="hosts", attr="load")
        assert entry("tasks", "toy").summary == "One question."
        assert entry("hosts", "toy").summary == "A host that is what it was asked for."

    def test_plugins_can_be_switched_off(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        """With L2PD_BENCH_PLUGINS=off only the built-ins are there; another value than on or off is refused."""
        install("toy-dist", "raise RuntimeError('imported')")
        monkeypatch.setenv("L2PD_BENCH_PLUGINS", "off")
        assert {e.distribution for e in registry.catalog("strategies")} == {"l2pd-bench"}
        with pytest.raises(UsageError, match="got 'toy'"):
            registry.load_strategy("toy")

        monkeypatch.setenv("L2PD_BENCH_PLUGINS", "of")
        with pytest.raises(UsageError, match=r"L2PD_BENCH_PLUGINS: got 'of', expected one of off, on"):
            registry.catalog("tasks")


class TestLoadTask:
    """`load_task` and `task_spec`."""

    def test_by_name(self, install: Install) -> None:
        """A task is made by its name; an unknown one is answered with the known."""
        install("toy-dist", TASK, group="tasks")
        assert registry.load_task("toy").gen_length == 32
        with pytest.raises(UsageError, match=r"task: got 'toyy', expected one of .*; did you mean 'toy'\?"):
            registry.load_task("toyy")

    def test_parameters(self, install: Install) -> None:
        """The fields of a task's dataclass are its parameters, and its spec makes an equal task again."""
        install("toy-dist", PARAMETRIC, group="tasks")
        task = registry.load_task("toy:shots=2,word=x")
        assert (task.word, task.shots, task.form, task.data_dir) == ("x", 2, "base", None)  # type: ignore[attr-defined]
        assert registry.task_spec(task) == "toy:shots=2,word=x"
        assert registry.load_task(registry.task_spec(task)) == task
        with pytest.raises(UsageError, match=r"task 'toy': parameter: got 'shot', .*did you mean 'shots'\?"):
            registry.load_task("toy:word=x,shot=2")
        with pytest.raises(UsageError, match=r"task 'toy': shots: got 9, expected less"):
            registry.load_task("toy:word=x,shots=9")

    def test_a_word_for_the_required_parameter(self, install: Install) -> None:
        """What stands behind a second colon is the required parameter; a task without one has no use for it."""
        install("toy-dist", PARAMETRIC, group="tasks")
        assert registry.load_task("toy:x:shots=2") == registry.load_task("toy:word=x,shots=2")
        assert registry.load_task("toy:x").name == "toy:x"
        with pytest.raises(UsageError, match=r"got no 'word', expected word=text"):
            registry.load_task("toy")
        with pytest.raises(UsageError, match=r"got 'mini-math:x', expected mini-math without ':x'"):
            registry.load_task("mini-math:x")

    def test_what_is_filled_in(self, install: Install, tmp_path: Path) -> None:
        """The form for a host that chats and the data folder are filled in where the user wrote none."""
        install("toy-dist", PARAMETRIC, group="tasks")
        task = registry.load_task("toy:x", chat=True, data_dir=tmp_path)
        assert (task.form, task.data_dir) == ("instruct", str(tmp_path))  # type: ignore[attr-defined]
        assert registry.task_spec(task) == "toy:form=instruct,word=x"
        assert registry.load_task("toy:x:form=base", chat=True).form == "base"  # type: ignore[attr-defined]
        assert registry.load_task("mini-math", chat=True, data_dir=tmp_path).name == "mini-math"


def test_load_host(install: Install) -> None:
    """A host gets its parameters as text, and where and how to compute."""
    install("toy-dist", HOST, group="hosts", attr="load")
    got = registry.load_host("toy:weights=/a:b", device="cpu", revision="main")
    wanted = HostRequest("toy", {"weights": "/a:b"}, device="cpu", revision="main")
    assert got == wanted  # type: ignore[comparison-overlap]
    with pytest.raises(UsageError, match=r"model: got 'toyy', expected one of .*; did you mean 'toy'\?"):
        registry.load_host("toyy")
