"""Specs: what is written on the command line, as values, and back."""

from __future__ import annotations

import pytest

from l2pd_bench.errors import UsageError
from l2pd_bench.specs import Parameter, Scalar, canonical, convert, parse, slug

PARAMETERS = (
    Parameter("flag", "bool", default=False),
    Parameter("count", "int", default=3),
    Parameter("tau", "float", default=0.9),
    Parameter("word", "str", default="plain"),
    Parameter("cap", "float", optional=True),
)


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("threshold", "threshold", {}),
        ("threshold:tau=0.8", "threshold", {"tau": "0.8"}),
        ("fixed-step: k=4, order=random ", "fixed-step", {"k": "4", "order": "random"}),
        ("./file.py:Class", "./file.py:Class", {}),
        ("./file.py:Class:tau=0.8", "./file.py:Class", {"tau": "0.8"}),
        (r"C:\some\file.py:Class:tau=0.8", r"C:\some\file.py:Class", {"tau": "0.8"}),
        ("a.module:Class:x=1,y=2", "a.module:Class", {"x": "1", "y": "2"}),
        ("mini:weights=/a/b:c.safetensors", "mini", {"weights": "/a/b:c.safetensors"}),
        ("name:word=", "name", {"word": ""}),
    ],
)
def test_parse(text: str, name: str, params: dict[str, str]) -> None:
    """A spec is a name, perhaps with colons in it, and key=value pairs after the last of its colons."""
    assert parse(text, "strategy") == (name, params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x:tau=1,", "strategy: got '' in 'x:tau=1,', expected key=value pairs"),
        ("x:tau=1,k", "strategy: got 'k' in 'x:tau=1,k', expected key=value pairs"),
        ("x:tau=1,=2", "strategy: got '=2' in"),
        ("x:tau=1,tau=2", "strategy: got 'tau' twice"),
    ],
)
def test_malformed_pairs_are_refused(text: str, message: str) -> None:
    """A piece that is no key=value pair, or repeats a key, is named in the error."""
    with pytest.raises(UsageError, match=message):
        parse(text, "strategy")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("flag", "true", True),
        ("flag", "false", False),
        ("count", "-7", -7),
        ("tau", "1", 1.0),
        ("tau", "1e-3", 0.001),
        ("word", "left-to-right", "left-to-right"),
        ("word", "none", "none"),
        ("cap", "none", None),
        ("cap", "2", 2.0),
    ],
)
def test_values_take_the_type_of_their_parameter(key: str, text: str, value: Scalar) -> None:
    """Text becomes a value of exactly the parameter's type."""
    got = convert({key: text}, PARAMETERS, "x")[key]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("flag", "True", "true or false"),
        ("flag", "1", "true or false"),
        ("count", "1.5", "a whole number"),
        ("count", "", "a whole number"),
        ("tau", "high", "a finite number"),
        ("tau", "nan", "a finite number"),
        ("tau", "-inf", "a finite number"),
        ("tau", "1e999", "a finite number"),
        ("tau", "none", "a finite number"),
        ("cap", "nan", "a finite number or none"),
    ],
)
def test_values_of_another_type_are_refused(key: str, text: str, expected: str) -> None:
    """The error names the parameter, what was got and what may be written."""
    with pytest.raises(UsageError) as caught:
        convert({key: text}, PARAMETERS, "strategy 'x'")
    assert str(caught.value) == f"strategy 'x': {key}: got '{text}', expected {expected}"


def test_unknown_parameters_are_refused() -> None:
    """The error lists the parameters there are and the nearest of them."""
    with pytest.raises(UsageError, match=r"got 'cuont', expected one of cap, .*; did you mean 'count'\?"):
        convert({"cuont": "1"}, PARAMETERS, "strategy 'x'")


def test_required_parameters_must_be_given() -> None:
    """A parameter without a default cannot be left out, and is always part of the spec."""
    required = (Parameter("k", "int", required=True),)
    with pytest.raises(UsageError, match="strategy 'x': got no 'k', expected k=a whole number"):
        convert({}, required, "strategy 'x'")
    assert canonical("x", {"k": 0}, required) == "x:k=0"


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("x", "x"),
        ("x:tau=0.90,count=3", "x"),
        ("x:word=b,tau=1,flag=true", "x:flag=true,tau=1.0,word=b"),
        ("x:cap=0.50", "x:cap=0.5"),
        ("x:tau=-0.0", "x:tau=0.0"),
    ],
)
def test_canonical_specs(written: str, spec: str) -> None:
    """Equal settings are written in one way, which reads back as the same values."""
    values = convert(parse(written, "x").params, PARAMETERS, "x")
    assert canonical("x", values, PARAMETERS) == spec

    again = convert(parse(spec, "x").params, PARAMETERS, "x")
    assert canonical("x", again, PARAMETERS) == spec


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("threshold", "threshold"),
        ("threshold:tau=0.8", "threshold-tau0.8"),
        ("fixed-step:k=4,order=left-to-right", "fixed-step-k4-orderleft-to-right"),
    ],
)
def test_slugs_of_plain_specs_are_readable(spec: str, name: str) -> None:
    """A slug is the spec with its punctuation taken out."""
    assert slug(spec) == name


def test_slugs_of_other_specs_are_safe_and_different() -> None:
    """What had to be replaced or cut cannot make two specs share a folder."""
    specs = [
        "./a/b.py:C",
        "./a-b.py:C",
        "../x:w=../..",
        "x:w=a/b",
        "x:w=a b",
        "x:w=é",
        *(f"x:w={'a' * 200}{i}" for i in "12"),
    ]
    slugs = [slug(spec) for spec in specs]

    assert len(set(slugs)) == len(specs)
    for name in slugs:
        assert not set(name) & set("/\\: é")
        assert not name.startswith(".")
        assert len(name) < 100
