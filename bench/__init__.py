"""The referee for decoding strategies of diffusion language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2pd_bench.api import load_results as load_results
    from l2pd_bench.api import run as run

__version__ = "0.1.0"
__all__ = ["__version__", "load_results", "run"]


def __getattr__(name: str) -> Any:
    """The public interface, once it is asked for: it takes a second to import."""
    if name in ("load_results", "run"):
        from l2pd_bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'l2pd_bench' has no attribute '{name}'")
