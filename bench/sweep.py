"""What a sweep asks for: strategies at every value of their speed knobs, as the specs that a run takes.

Specs in, specs out; nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from l2pd_bench import specs
from l2pd_bench.errors import PluginError, UsageError, unknown
from l2pd_bench.registry import load_strategy

BASELINE = "fixed-step"
MOST = 100  # values of one range; more is a slip of the pen
FORMS = "KEY=START:STOP:STEP or KEY=VALUE,VALUE,..., such as tau=0.5:1.0:0.1"


class Sweep(NamedTuple):
    """The strategies to run, and what a user should be told of how they came about."""

    strategies: list[str]
    notes: list[str]


class Setting(NamedTuple):
    """A parameter and the values to try, as text."""

    parameter: str
    values: list[str]


def expand(strategies: Sequence[str], values: Sequence[str]) -> Sweep:
    """Every strategy at every value: those of `values`, else those it declares; and the baseline.

    Each of `values` is `KEY=...`, or `STRATEGY.KEY=...` where there are several strategies.
    Raises UsageError for what cannot be meant, with every value tried on its strategy.
    """
    if not strategies:
        raise UsageError(
            "strategy: got none, expected at least one --strategy NAME to sweep; 'l2pd-bench list strategies' shows "
            "what there is, and the knobs"
        )
    given = _assign([specs.parse(text, "strategy").name for text in strategies], values)
    expanded, notes = [], []
    for text in strategies:
        name = specs.parse(text, "strategy").name
        setting = given.get(name)
        if setting is None:
            setting = _declared(text)
            notes.append(f"{text}: {setting.parameter} over {', '.join(setting.values)}, as it declares")
        expanded += _at_all(text, setting)
    if BASELINE not in [load_strategy(text)[1].spec for text in expanded]:
        expanded.insert(0, BASELINE)
        notes.append(f"added --strategy {BASELINE}, the baseline that everything is compared with")
    return Sweep(expanded, notes)


def at(text: str, parameter: str, value: str) -> str:
    """The strategy `text` with one parameter set."""
    name, params = specs.parse(text, "strategy")
    return f"{name}:{','.join(f'{key}={word}' for key, word in {**params, parameter: value}.items())}"


def knob_fault(text: str) -> str | None:
    """What is wrong with the knob that a strategy declares, tried on its defaults; None if nothing is."""
    name = specs.parse(text, "strategy").name
    strategy, spec = load_strategy(name)
    knob = strategy.knob
    if knob is None:
        return None
    if knob.parameter not in spec.params:
        return f"got the parameter '{knob.parameter}', expected one of {', '.join(spec.params) or '(none)'}"
    for value in knob.values:
        try:
            load_strategy(at(name, knob.parameter, specs.show(value)))
        except UsageError as error:
            return f"got {value} among the values, expected what the strategy takes ({error})"
    return None


def numbers(text: str) -> list[str]:
    """The values that `START:STOP:STEP` stands for, both ends among them, computed in decimal."""
    parts = text.split(":")
    try:
        start, stop, step = (Decimal(part.strip()) for part in parts)
        count, rest = divmod(stop - start, step)
        is_finite = count.is_finite() and rest.is_finite()
    except (ArithmeticError, ValueError):  # no number, no three of them, or no step
        is_finite = False
    if not is_finite:
        raise UsageError(f"values: got '{text}', expected START:STOP:STEP in numbers, with a step above 0")
    if step <= 0 or stop < start:
        raise UsageError(f"values: got '{text}', expected the smaller end first and a step above 0")
    if rest:
        last = start + count * step
        raise UsageError(
            f"values: got '{text}', which steps over its end (from {last} to {last + step}); expected to land on {stop}"
        )
    if count >= MOST:
        raise UsageError(f"values: got '{text}', which are {count + 1} values, expected at most {MOST}")
    return [_plain(start + i * step) for i in range(int(count) + 1)]


def _plain(value: Decimal) -> str:
    """A number without zeros at its end, nor an exponent."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _assign(names: Sequence[str], values: Sequence[str]) -> dict[str, Setting]:
    """What was given, by the name of the strategy it is for."""
    found: dict[str, Setting] = {}
    for text in values:
        key, _, listed = text.rpartition("=")
        owner, _, parameter = key.strip().rpartition(".")
        words = [word.strip() for word in listed.split(",")]
        if not parameter or not all(words):
            raise UsageError(f"values: got '{text}', expected {FORMS}")
        if not owner and len(set(names)) > 1:
            forms = ", ".join(f"{name}.{parameter}=..." for name in dict.fromkeys(names))
            raise UsageError(f"values: got '{text}' for several strategies, expected whose it is: {forms}")
        owner = owner or names[0]
        if owner not in names:
            raise unknown("values: strategy", owner, set(names))
        if owner in found:
            raise UsageError(f"values: got '{text}' after {found[owner].parameter}, expected one knob for {owner}")
        found[owner] = Setting(parameter, [value for word in words for value in _values(word)])
    return found


def _values(word: str) -> list[str]:
    return numbers(word) if ":" in word else [word]


def _declared(text: str) -> Setting:
    """A strategy's own knob; UsageError if it has none."""
    strategy, spec = load_strategy(text)
    if strategy.knob is None:
        choice = f"--values with one of its parameters: {', '.join(spec.params)}" if spec.params else "another strategy"
        why = "" if spec.params else ", nor a parameter"
        raise UsageError(f"strategy '{text}': got no --values, and it declares no knob{why}; expected {choice}")
    if fault := knob_fault(text):
        raise PluginError(f"strategy '{text}': its knob: {fault}; mend it there, or choose by --values")
    return Setting(strategy.knob.parameter, [specs.show(value) for value in strategy.knob.values])


def _at_all(text: str, setting: Setting) -> list[str]:
    """The strategy at every value; UsageError for one that it refuses."""
    if setting.parameter in specs.parse(text, "strategy").params:
        raise UsageError(f"strategy '{text}': got {setting.parameter}, which is what is swept; leave it out")
    found = [at(text, setting.parameter, value) for value in setting.values]
    for spec in found:
        load_strategy(spec)
    return found
