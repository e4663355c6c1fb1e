"""`mini`: the embedded diffusion model, and the session every transformer host uses.

A LLaDA-shaped transformer trained for this project (`l2pd-bench mini train`) and
shipped with it, so that a board is true on a machine that has nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.hosts.base import CausalModel, Session
from l2pd_bench.hosts.transformer import Transformer, TransformerConfig, rotary_table

MASK, EOT, USER, ASSISTANT, UNKNOWN = "<|mask|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|unk|>"
WEIGHTS, COMPANION, TOKENIZER = "mini.safetensors", "mini_causal.safetensors", "mini_tokenizer.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MiniTokenizer:
    """The embedded tokenizer and its chat template: `<|user|>` prompt `<|assistant|>`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.raw = tokenizer
        self.raw.encode_special_tokens = True  # a prompt that spells a special token is plain text
        vocab = tokenizer.get_vocab()
        self.vocab_size = len(vocab)
        self.id = hashlib.sha256(json.dumps(vocab, sort_keys=True).encode()).hexdigest()
        self.mask, self.eot, self.user, self.assistant = (vocab[t] for t in (MASK, EOT, USER, ASSISTANT))

    @classmethod
    def shipped(cls) -> MiniTokenizer:
        """The tokenizer in the package."""
        return cls(Tokenizer.from_str(files("l2pd_bench.hosts").joinpath(TOKENIZER).read_text("utf-8")))

    def prompt(self, text: str) -> list[int]:
        """Prompt ids in the chat template."""
        return [self.user, *self.answer(text), self.assistant]

    def answer(self, text: str) -> list[int]:
        """Ids of plain text."""
        ids: list[int] = self.raw.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens dropped."""
        text: str = self.raw.decode(list(ids))
        return text


class TransformerSession:
    """One batch on a `Transformer`: rotary tables, attention mask, and keys and values by column."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int, *, cached: bool) -> None:
        config, device = model.config, model.embed.weight.device
        self.model = model
        self.columns = torch.arange(length, device=device)
        self.first: Tensor | None = None  # (B, 1): each row's first column, if they differ
        positions = self.columns[None]  # (1, L): the same for every row
        if any(padding):
            self.first = torch.tensor(list(padding), device=device)[:, None]
            positions = (self.columns - self.first).clamp(min=0)  # (B, L)
        cos, sin = rotary_table(positions, config.head_dim, config.rope_theta)
        self.cos, self.sin = cos[:, :, None], sin[:, :, None]  # (B or 1, L, 1, head_dim)
        self.attend: Tensor | None = None  # (B, 1, 1, length): what a row has of the columns, if not all
        self.store: Tensor | None = None
        if cached:
            shape = (config.n_layers, 2, len(padding), length, config.n_heads, config.head_dim)
            self.store = torch.empty(shape, dtype=model.embed.weight.dtype, device=device)
        self.resize([length] * len(padding))

    def forward(self, ids: Tensor, start: int, block: slice) -> Tensor:
        """See `Session.forward`; the head sees the block's rows only."""
        stop = start + ids.shape[1]
        if self.attend is not None:
            ids = ids.clamp(min=0)  # padding: any token will do, as nothing attends to it
        cos, sin = self.cos[:, start:stop], self.sin[:, start:stop]
        store = None if self.store is None else self.store[:, :, :, : self.length]
        hidden = self.model.hidden(ids, cos, sin, self.attend, store, start)
        rows = hidden[:, block.start - start : block.stop - start]
        logits: Tensor = self.model.head(self.model.norm(rows))
        return logits

    def keep(self, rows: Tensor) -> None:
        """See `Session.keep`; what the store holds is overwritten by the next forward."""
        if self.attend is not None:
            self.attend = self.attend[rows]
        if self.first is not None:
            self.first, self.cos, self.sin = self.first[rows], self.cos[rows], self.sin[rows]
        if self.store is not None:
            self.store = self.store[:, :, : len(rows)]

    def resize(self, lengths: Sequence[int]) -> None:
        """See `Session.resize`; what the store holds of other columns is left where it is."""
        self.length = max(lengths)
        columns = self.columns[: self.length]
        attend = None if self.first is None else columns >= self.first  # (B, length)
        if min(lengths) < self.length:
            within = columns < torch.tensor(list(lengths), device=columns.device)[:, None]
            attend = within if attend is None else attend & within
        self.attend = None if attend is None else attend[:, None, None]  # (B, 1, 1, length)


class CausalTransformerSession(TransformerSession):
    """See `CausalSession`: a column attends to itself and to what is left of it."""

    def __init__(self, model: Transformer, padding: Sequence[int], length: int) -> None:
        super().__init__(model, padding, length, cached=True)

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """See `CausalSession.forward`."""
        stop = columns.stop - 1
        queries, keys = self.columns[start:stop, None], self.columns[:stop]
        attend = keys <= queries  # (N, stop)
        if self.first is not None:  # padding sees itself: the mean of nothing is NaN in some kernels
            attend = attend & (keys >= self.first[:, None]) | (keys == queries)  # (B, N, stop)
            attend = attend[:, None]
        assert self.store is not None
        cos, sin = self.cos[:, start:stop], self.sin[:, start:stop]
        hidden = self.model.hidden(ids, cos, sin, attend, self.store[:, :, :, :stop], start)
        logits: Tensor = self.model.head(self.model.norm(hidden[:, columns.start - 1 - start :]))
        return logits

    def keep(self, rows: Tensor) -> None:
        """See `CausalSession.keep`."""
        assert self.store is not None
        store = self.store[:, :, rows]
        super().keep(rows)
        self.store = store


class MiniHost:
    """A `Transformer` with the embedded tokenizer, as a host."""

    revision = "1"
    attention = "sdpa"
    trained_tasks: frozenset[str] | None = frozenset({"mini-math", "mini-code", "mini-list", "mini-line-random"})

    def __init__(self, name: str, model: Transformer, tokenizer: MiniTokenizer, weights_hash: str) -> None:
        self.name, self.model, self.tokenizer, self.weights_hash = name, model.eval(), tokenizer, weights_hash
        self.tokenizer_id = tokenizer.id
        self.vocab_size, self.mask_id, self.eot_id = tokenizer.vocab_size, tokenizer.mask, tokenizer.eot

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations."""
        return self.model.embed.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed.weight.device

    def encode(self, prompt: str) -> list[int]:
        """Prompt ids in the chat template."""
        return self.tokenizer.prompt(prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens dropped."""
        return self.tokenizer.decode(ids)

    def open(self, padding: Sequence[int], length: int, *, cached: bool) -> Session:
        """Begin a batch."""
        return TransformerSession(self.model, padding, length, cached=cached)

    def flops(self, queries: int, keys: int, logits: int) -> int:
        """Floating-point operations of one forward."""
        return self.model.config.flops(queries, keys, logits)

    def vocabulary(self) -> Mapping[str, int]:
        """Token -> id."""
        vocab: dict[str, int] = self.tokenizer.raw.get_vocab()
        return vocab

    def companion(self) -> CausalModel:
        """The small causal model that is shipped with the embedded one."""
        if self.tokenizer_id != MiniTokenizer.shipped().id:
            raise UsageError(
                f"scorer: model '{self.name}' has a tokenizer of its own, got none for it; "
                "name a causal model with the same tokenizer (a folder or a hub id)"
            )
        with as_file(files("l2pd_bench.hosts").joinpath(COMPANION)) as path:
            dtype = str(self.dtype).removeprefix("torch.")
            model = read_model(path, device=str(self.device), dtype=dtype).eval()
        return CausalModel(
            f"{self.name}'s companion",
            self.mask_id,
            lambda padding, length: CausalTransformerSession(model, padding, length),
            model.config.flops,
        )


def read_model(path: Path, *, device: str, dtype: str) -> Transformer:
    """A `Transformer` from a safetensors file whose metadata holds its shape."""
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    try:
        with safe_open(path, "pt", device="cpu") as stored:
            config = TransformerConfig(**json.loads(stored.metadata()["config"]))
            weights = {name: stored.get_tensor(name).to(DTYPES[dtype]) for name in stored.keys()}  # noqa: SIM118
        with torch.device("meta"):
            model = Transformer(config)
        model.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"weights: got '{path}' ({error}), expected a file made by 'l2pd-bench mini train'") from error
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device: got '{device}', which cannot be used here ({error}); try cpu") from error


def load(params: dict[str, str], *, device: str, dtype: str) -> MiniHost:
    """The host `mini`; `mini:weights=FILE` takes another file made by `mini train`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if extra := params.keys() - {"weights"}:
        raise unknown("parameter of model 'mini'", min(extra), ["weights"])
    with as_file(files("l2pd_bench.hosts").joinpath(WEIGHTS)) as shipped:
        path = Path(params["weights"]) if "weights" in params else shipped
        model = read_model(path, device=device, dtype=dtype)
        weights_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    tokenizer = MiniTokenizer.shipped()
    if model.config.causal or model.config.vocab_size != tokenizer.vocab_size:
        raise UsageError(
            f"weights: got '{path}' (causal: {model.config.causal}, {model.config.vocab_size} tokens), "
            f"expected a diffusion model with {tokenizer.vocab_size} tokens"
        )
    return MiniHost("mini", model, tokenizer, weights_hash)
