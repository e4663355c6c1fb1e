"""Counts what a piece of code makes torch do: operators, new memory, logits, and reads of tensors on the host.

Counts only, no seconds, so that they are the same on any machine; operators and memory
may differ between releases of torch. It knows nothing of decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# A read waits for the device. These are seen where they reach the device ...
READING_OPERATORS = (
    *("item", "_local_scalar_dense", "is_nonzero", "equal"),  # the first as inference mode has it
    *("nonzero", "nonzero_numpy", "masked_select", "unique", "_unique2"),
)
# ... and these where Python calls them, as they do not pass there, or as an ordinary copy.
READING_METHODS: dict[Callable[..., Any], str] = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.__array__: "numpy",
    Tensor.cpu: "cpu",
}
PRODUCTS = ("linear", "mm", "addmm", "matmul", "bmm")


class Meter(TorchDispatchMode):
    """Counts while it is active, see `metered`. A row of logits is one of a product as wide as the vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocab_size = vocab_size
        self.operators: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.new_bytes = self.logit_rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operator."""
        name = func.overloadpacket.__name__
        self.operators[name] += 1
        if name in READING_OPERATORS:
            self.reads[name] += 1
        elif name in ("index", "index_put", "index_put_") and _by_mask(args[1]):
            self.reads["index by a mask"] += 1
        elif name == "where" and len(args) == 1:
            self.reads["nonzero"] += 1
        given = {_storage(t) for t in _tensors((*args, *(kwargs or {}).values()))}
        result = func(*args, **(kwargs or {}))
        for made in _tensors((result,)):
            if (place := _storage(made)) not in given:
                given.add(place)
                self.new_bytes += made.untyped_storage().nbytes()
                if name in PRODUCTS and made.shape[-1] == self.vocab_size:
                    self.logit_rows += made.numel() // self.vocab_size
        return result


class _Methods(TorchFunctionMode):
    def __init__(self, reads: Counter[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING_METHODS:
            self.reads[READING_METHODS[func]] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def metered(vocab_size: int) -> Iterator[Meter]:
    """Counts what runs within it."""
    meter = Meter(vocab_size)
    with meter, _Methods(meter.reads):
        yield meter


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _by_mask(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
