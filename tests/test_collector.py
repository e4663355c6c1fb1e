"""The search for cyclic garbage rests while it is asked to, and no longer."""

from __future__ import annotations

import gc

import pytest

from l2pd_bench.collector import paused


def failing() -> None:
    """Paused, and within that once more."""
    with paused():
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ZeroDivisionError


@pytest.mark.parametrize("is_enabled", [True, False])
def test_paused(is_enabled: bool) -> None:
    """Within it rests, also where it was paused before; afterwards it is as it was, also after an error."""
    was_enabled = gc.isenabled()
    try:
        (gc.enable if is_enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError):
            failing()
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
