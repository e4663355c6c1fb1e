"""`mini`: the embedded diffusion model.

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

from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.hosts import plain
from l2pd_bench.hosts.attention import SDPA
from l2pd_bench.hosts.base import CausalModel, HostRequest, Session
from l2pd_bench.hosts.session import CausalTransformerSession, TransformerSession
from l2pd_bench.hosts.transformer import Transformer, TransformerConfig

MASK, EOT, USER, ASSISTANT, UNKNOWN = "<|mask|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|unk|>"
WEIGHTS, COMPANION, TOKENIZER = "mini.safetensors", "mini_causal.safetensors", "mini_tokenizer.json"


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

    def prompt(self, text: str, prefix: str = "") -> list[int]:
        """Prompt ids in the chat template, and those of what the answer begins with."""
        return [self.user, *self.answer(text), self.assistant, *self.answer(prefix)]

    def answer(self, text: str) -> list[int]:
        """Ids of plain text."""
        ids: list[int] = self.raw.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens dropped."""
        text: str = self.raw.decode(list(ids))
        return text


class MiniHost:
    """A `Transformer` with the embedded tokenizer, as a host."""

    revision = "1"
    is_chat = is_trained = True
    trained_tasks: frozenset[str] | None = frozenset({"mini-math", "mini-code", "mini-list", "mini-line-random"})

    def __init__(
        self, name: str, model: Transformer, tokenizer: MiniTokenizer, weights_hash: str, *, fast: bool = True
    ) -> None:
        self.attention, self._fast = SDPA.name if fast else plain.NAME, fast
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

    def encode(self, prompt: str, prefix: str = "", *, chat: bool | None = None) -> list[int]:
        """Prompt ids, in the chat template unless `chat` is False."""
        return self.tokenizer.answer(prompt + prefix) if chat is False else self.tokenizer.prompt(prompt, prefix)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat as text: one message of the user's, and perhaps the beginning of the answer."""
        roles = [message["role"] for message in messages]
        if roles not in (["user"], ["user", "assistant"]):
            raise UsageError(f"model 'mini': got a chat of {', '.join(roles)}, expected one message of the user's")
        return USER + ASSISTANT.join([*(message["content"] for message in messages), ""][:2])

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a chat as text."""
        prompt, _, prefix = text.removeprefix(USER).partition(ASSISTANT)
        return self.tokenizer.prompt(prompt, prefix)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens dropped."""
        return self.tokenizer.decode(ids)

    def open(self, padding: Sequence[int], length: int, *, cached: bool, slots: int | None = None) -> Session:
        """Begin with some rows."""
        if not self._fast:
            return plain.PlainSession(self.model, padding, length, cached=cached)
        return TransformerSession(self.model, padding, length, cached=cached, slots=slots)

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
            model = read_model(path, device=self.device, dtype=self.dtype).eval()
        return CausalModel(
            f"{self.name}'s companion",
            self.mask_id,
            lambda padding, length: CausalTransformerSession(model, padding, length),
            model.config.flops,
        )


def read_model(path: Path, *, device: torch.device, dtype: torch.dtype) -> Transformer:
    """A `Transformer` from a safetensors file whose metadata holds its shape."""
    try:
        with safe_open(path, "pt", device="cpu") as stored:
            config = TransformerConfig(**json.loads(stored.metadata()["config"]))
            weights = {name: stored.get_tensor(name).to(dtype) for name in stored.keys()}  # noqa: SIM118
        with torch.device("meta"):
            model = Transformer(config)
        model.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"weights: got '{path}' ({error}), expected a file made by 'l2pd-bench mini train'") from error
    return model.to(device)


def load(request: HostRequest) -> MiniHost:
    """The host `mini`; `mini:weights=FILE` takes another file made by `mini train`."""
    request.refuse("revision", "attention", "weights")
    device, dtype = request.torch_device(), request.torch_dtype(torch.float32)
    if extra := request.params.keys() - {"weights"}:
        raise unknown("parameter of model 'mini'", min(extra), ["weights"])
    with as_file(files("l2pd_bench.hosts").joinpath(WEIGHTS)) as shipped:
        path = Path(request.params["weights"]) if "weights" in request.params else shipped
        model = read_model(path, device=device, dtype=dtype)
        weights_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    tokenizer = MiniTokenizer.shipped()
    if model.config.causal or model.config.vocab_size != tokenizer.vocab_size:
        raise UsageError(
            f"weights: got '{path}' (causal: {model.config.causal}, {model.config.vocab_size} tokens), "
            f"expected a diffusion model with {tokenizer.vocab_size} tokens"
        )
    return MiniHost("mini", model, tokenizer, weights_hash, fast=request.fast)
