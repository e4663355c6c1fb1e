"""Causal language models of Hugging Face, read from disk, as judges of a host's tokens.

Nothing is downloaded and no code that comes with a model is run. What the tokens are
judged for is not known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import CausalModel, Host
from l2pd_bench.hosts.checkpoint import find_folder

NEEDED = ("attention_mask", "position_ids", "past_key_values", "logits_to_keep")  # by a session, of the network
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)  # what transformers raises


class CausalLmSession:
    """One batch: see `CausalSession`. Positions count from each row's first column."""

    def __init__(self, network: Any, padding: Sequence[int], vocab_size: int) -> None:
        from transformers import DynamicCache

        self.network, self.vocab_size = network, vocab_size
        self.store = DynamicCache()  # without the network's config: every layer then keeps every column
        self.is_padded = any(padding)
        self.first = torch.tensor(list(padding), device=network.device)[:, None]  # (B, 1)

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """See `CausalSession.forward`; tokens that only the host has are never predicted."""
        if surplus := self.store.get_seq_length() - start:
            self.store.crop(-surplus)
        places = torch.arange(columns.stop - 1, device=ids.device)
        output = self.network(
            input_ids=ids.clamp(max=known(self.network) - 1),  # a host may have ids to spare, which mean nothing
            attention_mask=(places >= self.first).long() if self.is_padded else None,
            position_ids=(places[start:] - self.first).clamp(min=0),
            past_key_values=self.store,
            use_cache=True,
            logits_to_keep=columns.stop - columns.start,
        )
        logits: Tensor = output.logits
        return F.pad(logits, (0, self.vocab_size - logits.shape[-1]), value=-torch.inf)  # or cut, if it is wider

    def keep(self, rows: Tensor) -> None:
        """See `CausalSession.keep`."""
        self.store.batch_select_indices(rows)
        self.first = self.first[rows]


def read_causal_lm(name: str, host: Host) -> CausalModel:
    """The model in folder `name`, or the local copy of that hub id, on the host's device and in its dtype.

    Raises UsageError if it is not there or not whole, or has other tokens than the host.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, _ = find_folder(name, None, download=False, what="scorer")  # a download would be timed with the decode
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        _require_same_tokens(name, tokenizer.get_vocab(), host)
        size, needed = known(AutoConfig.from_pretrained(folder, **options)), max(host.vocabulary().values()) + 1
        if size < needed:
            raise UsageError(f"scorer: got '{name}' with {size} logits, expected at least the {needed} of the host")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, **options, dtype=host.dtype, use_safetensors=True, output_loading_info=True
        )
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"scorer: got '{name}', expected a causal language model in '{folder}' (config.json, tokenizer, weights as "
            f"safetensors); put it there whole, or name another: {reason}"
        ) from error
    network, found = loaded
    if lacking := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise UsageError(
            f"scorer: got '{name}', whose files lack {len(lacking)} of its weights, such as '{lacking[0]}'; "
            "expected all of them"
        )
    parameters = inspect.signature(network.forward).parameters
    if network._is_stateful or any(parameter not in parameters for parameter in NEEDED):
        raise UsageError(
            f"scorer: got '{name}', a {type(network).__name__}, which cannot go back to an earlier token, or lacks one "
            f"of {', '.join(NEEDED)}; expected a transformer with keys and values, such as Qwen2 or Llama"
        )
    network.eval().requires_grad_(False).to(host.device)
    vocab_size = host.vocab_size  # not the host itself, which would then live as long as its scorer
    return CausalModel(
        name, host.mask_id, lambda padding, length: CausalLmSession(network, padding, vocab_size), flops_of(network)
    )


def known(network: Any) -> int:
    """How many ids a network, or the configuration of one, has embeddings and logits for."""
    return int(getattr(network, "config", network).get_text_config().vocab_size)


def flops_of(network: Any) -> Callable[[int, int, int], int]:
    """A network's floating-point operations, as `Host.flops`: every matrix is taken to be used for every row.

    A network with experts uses fewer of them.
    """
    head = network.get_output_embeddings()
    inner = (m for m in network.modules() if m is not head and not isinstance(m, nn.Embedding))
    matrices = sum(p.numel() for m in inner for p in m.parameters(recurse=False) if p.dim() > 1)
    config = network.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = int(4 * config.num_attention_heads * head_dim * config.num_hidden_layers)
    row = int(2 * config.hidden_size * known(network))
    return lambda queries, keys, logits: queries * (2 * matrices + attention * keys) + logits * row


def _require_same_tokens(name: str, got: Mapping[str, int], host: Host) -> None:
    """Raise UsageError unless each of the host's tokens has the same id in `got`."""
    by_id = {i: token for token, i in got.items()}
    for token, i in sorted(host.vocabulary().items(), key=lambda pair: pair[1]):
        if got.get(token) != i:
            has = f"'{by_id[i]}'" if i in by_id else "nothing"
            raise UsageError(
                f"scorer: got '{name}', whose tokenizer has {has} as token {i}, expected {token!r} as model "
                f"'{host.name}' has; choose a causal model with the same tokenizer"
            )
