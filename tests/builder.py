"""Whether packages can be built here without a network."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

import pytest


def skip_without_builder() -> None:
    """Skip a test that builds a package, and say what it lacks."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("building a package needs pip, which is not installed here")
    if importlib.util.find_spec("setuptools") is None or int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("building a package without a network needs setuptools >= 77, which is not installed here")
