"""Autoregressive scorers: which model judges a draft, and what of a batch it need not read again.

A strategy asks for the logits of a block from its left (APD's verifier). Where the
tokens come from and what is done with the logits is not known here, nor how the model
keeps its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class BatchScorer:
    """A causal model opened on a batch of `length` columns, see `strategies.base.Scorer`.

    Of the columns before a block nothing is read twice, except the last one, whose row
    predicts the block's first position. `count` is told of every forward: the
    floating-point operations of each row, as if it were alone.
    """

    def __init__(
        self, model: CausalModel, padding: Sequence[int], length: int, count: Callable[[Sequence[int]], None]
    ) -> None:
        self._model, self._count = model, count
        self._session = model.open(padding, length)
        self._padding = list(padding)
        self._rows = tuple(range(len(self._padding)))
        self._final = 0  # columns whose keys and values are of tokens that stay

    def score(self, view: StepView, tokens: Tensor) -> Tensor:
        """See `Scorer.score`."""
        if view.rows != self._rows:
            self._keep(view)
        columns = slice(view.start, view.start + tokens.shape[1])
        if columns.start <= max(self._padding):
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
        stop, n = columns.stop - 1, tokens.shape[1]
        self._count([self._model.flops(stop - max(start, pad), stop - pad, n) for pad in self._padding])
        return logits

    def _keep(self, view: StepView) -> None:
        places = [self._rows.index(row) for row in view.rows]
        self._session.keep(torch.tensor(places, device=view.canvas.device))
        self._padding = [self._padding[i] for i in places]
        self._rows = view.rows
