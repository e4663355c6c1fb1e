"""Autoregressive scorers: which model judges a draft, and what of a batch it need not read again.

A strategy asks for the logits of a block from its left (APD's verifier). Where the
tokens come from and what is done with the logits is not known here, nor how the model
keeps its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import CausalModel, Host
from l2pd_bench.hosts.causal_lm import read_causal_lm
from l2pd_bench.strategies.base import StepView


def load_scorer(name: str | None, host: Host) -> CausalModel:
    """The causal model of that name for `host`: a Hugging Face model's folder or hub id; None: the host's companion.

    Raises UsageError if there is none, or if its tokens are not the host's.
    """
    return host.companion() if name is None else read_causal_lm(name, host)


class SampleScorer:
    """A causal model opened on a sample of `length` columns, see `strategies.base.Scorer`.

    Of the columns before a block nothing is read twice, except the last one, whose row
    predicts the block's first position. `count` is told of every forward: its
    floating-point operations.
    """

    def __init__(self, model: CausalModel, padding: int, length: int, count: Callable[[int], None]) -> None:
        self._model, self._count, self._padding = model, count, padding
        self._session = model.open([padding], length)
        self._final = 0  # columns whose keys and values are of tokens that stay

    def score(self, view: StepView, tokens: Tensor) -> Tensor:
        """See `Scorer.score`."""
        columns = slice(view.start, view.start + tokens.shape[1])
        if columns.start <= self._padding:
            raise UsageError(
                f"scorer: got an empty prompt, which '{self._model.name}' cannot go on from; give it at least one token"
            )
        # What stands left of the block stays; the block itself was fed as drafts, so it is fed anew.
        start = min(self._final, columns.start - 1)
        ids = torch.cat([view.canvas[:, start : columns.start], tokens], 1)[:, :-1]
        ids = ids.clamp(min=0)  # where a row has no column any token will do: no answer depends on it
        logits = self._session.forward(ids, start, columns).float()  # (B, N, V)
        logits[..., self._model.mask_id] = -torch.inf
        self._final = columns.start
        stop, n, pad = columns.stop - 1, tokens.shape[1], self._padding
        self._count(self._model.flops(stop - max(start, pad), stop - pad, n))
        return logits
