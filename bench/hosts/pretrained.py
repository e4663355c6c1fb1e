"""Checkpoints as hosts: what LLaDA and Dream have in common.

A family says what its config.json means, what its tensors are called and how its prompts
begin; here that becomes a `Transformer` with a tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from l2pd_bench import specs
from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.hosts import plain
from l2pd_bench.hosts.attention import Attention, find_attention
from l2pd_bench.hosts.base import CausalModel, HostRequest, Session
from l2pd_bench.hosts.checkpoint import LOCAL, Fields
from l2pd_bench.hosts.graphs import Graphs
from l2pd_bench.hosts.session import ShiftedSession, TransformerSession
from l2pd_bench.hosts.tokens import ByteTokens, FileTokens, Tokens
from l2pd_bench.hosts.transformer import Transformer, TransformerConfig
from l2pd_bench.hosts.weights import SEED, random_model, read_model

RANDOM = "random"  # the only choice of `--weights`
CHAT, LAYERS = specs.Parameter("chat", "bool"), specs.Parameter("layers", "int")


@dataclass(frozen=True)
class Family:
    """What sets one family of checkpoints apart."""

    title: str
    example: str  # a repository
    names: Mapping[str, str]  # of tensors, see `weights.places`
    shape: Callable[[Fields], TransformerConfig]
    special: Callable[[Fields, Tokens], tuple[int, int]]  # -> the ids of MASK and of EoT
    tokenizer: str  # a class of transformers
    plain_bos: bool  # whether a prompt without a template begins with the tokenizer's first token
    session: type[TransformerSession] = TransformerSession
    shared_ids: int | None = None  # ids from here on are only this family's, not those of its autoregressive kin


class PretrainedHost:
    """A checkpoint's network, or a random one of its shape, with its tokenizer."""

    trained_tasks: frozenset[str] | None = None

    def __init__(
        self,
        name: str,
        family: Family,
        model: Transformer,
        tokens: Tokens,
        special: tuple[int, int],
        *,
        attention: Attention | None,  # None: the plain way
        revision: str,
        weights_hash: str,
        is_chat: bool,
        is_trained: bool,
    ) -> None:
        self.name, self.family, self.model, self.tokens = name, family, model, tokens
        self.revision, self.weights_hash, self.tokenizer_id = revision, weights_hash, tokens.id
        self.attention, self._attention = attention.name if attention else plain.NAME, attention
        self._graphs = Graphs(model) if attention and attention.is_replayed else None
        self.vocab_size = model.config.vocab_size
        self.mask_id, self.eot_id = special
        self.is_chat, self.is_trained = is_chat, is_trained

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and activations."""
        return self.model.embed.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed.weight.device

    def encode(self, prompt: str, prefix: str = "", *, chat: bool | None = None) -> list[int]:
        """Prompt ids: of a chat as rendered, or of the text as it is, behind the family's first token if it has one."""
        if self.is_chat if chat is None else chat:
            turns = [{"role": "user", "content": prompt}]
            turns += [{"role": "assistant", "content": prefix}] if prefix else []
            return self.encode_rendered(self.render(turns))
        ids = self.encode_rendered(prompt + prefix)
        first = self.tokens.bos_id if self.family.plain_bos else None
        return ids if first is None else [first, *ids]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat as text, in the template of the checkpoint."""
        if not self.tokens.has_template:
            raise UsageError(f"chat: got no template in {self.tokens.where}, expected one; use --model NAME:chat=false")
        return self.tokens.template(messages)

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of a text, special tokens it spells out included.

        A UsageError for MASK, which would be taken for a place to fill.
        """
        ids = self.tokens.encode(text)
        if self.mask_id in ids:
            raise UsageError(
                f"prompt: got one with the mask token of model '{self.name}' in it ({text!r:.80}), expected text "
                "without it; write it otherwise"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens dropped."""
        return self.tokens.decode(ids)

    def open(self, padding: Sequence[int], length: int, *, cached: bool, slots: int | None = None) -> Session:
        """Begin with some rows."""
        if self._attention is None:
            shifted = issubclass(self.family.session, ShiftedSession)
            return plain.PlainSession(self.model, padding, length, cached=cached, shifted=shifted)
        return self.family.session(
            self.model, padding, length, cached=cached, slots=slots, attention=self._attention, graphs=self._graphs
        )

    def flops(self, queries: int, keys: int, logits: int) -> int:
        """Floating-point operations of one forward."""
        return self.model.config.flops(queries, keys, logits)

    def vocabulary(self) -> Mapping[str, int]:
        """Token -> id, of all but MASK and what else only this family has."""
        first_own = self.family.shared_ids or self.vocab_size
        return {token: i for token, i in self.tokens.vocabulary.items() if i != self.mask_id and i < first_own}

    def companion(self) -> CausalModel:
        """None comes with a checkpoint."""
        raise UsageError(
            f"scorer: got none for model '{self.name}', which comes without one; "
            "name a causal model with the same tokenizer (a folder or a hub id)"
        )


def load_checkpoint(request: HostRequest, family: Family) -> PretrainedHost:
    """The host in the request's folder; with `weights` "random", of its shape and with its tokenizer."""
    if request.folder is None:
        raise UsageError(
            f"model: got '{request.name}', expected the folder or the repository of a {family.title} checkpoint, "
            f"such as --model {family.example}"
        )
    tokens = FileTokens(request.folder, family.tokenizer)
    return _load(request, family, Fields.of_folder(request.folder), tokens)


def load_shape(request: HostRequest, family: Family, config: Mapping[str, object]) -> PretrainedHost:
    """A host of the shape of a known checkpoint's config.json, which needs no files: `--weights random`."""
    request.refuse("revision")
    if request.weights is None:
        raise UsageError(
            f"model: got '{request.name}', a shape without weights; add --weights random to measure its speed, or "
            f"name a checkpoint, such as --model {family.example}"
        )
    return _load(request, family, Fields(config, request.name), ByteTokens())


def _load(request: HostRequest, family: Family, fields: Fields, tokens: Tokens) -> PretrainedHost:
    """Everything that can be wrong is checked before weights are read."""
    if request.weights not in (None, RANDOM):
        raise unknown("weights", request.weights, [RANDOM])
    is_random = request.weights is not None
    given = specs.convert(request.params, [CHAT, LAYERS] if is_random else [CHAT], f"model '{request.name}'")
    try:
        config, name = family.shape(fields), request.name
    except ValueError as error:
        raise UsageError(f"model: got sizes in '{fields.where}' that do not fit each other: {error}") from error
    if isinstance(layers := given.get("layers"), int):
        if layers < 1:
            raise UsageError(f"layers: got {layers}, expected at least 1")
        config, name = replace(config, n_layers=layers), f"{name}:layers={layers}"
    special = family.special(fields, tokens)
    _check_vocabulary(config, tokens, special)
    chat = given.get("chat", tokens.has_template and "base" not in request.name.rpartition("/")[2].lower())
    if chat and not tokens.has_template:
        raise UsageError(f"chat: got true for model '{name}', whose tokenizer has no chat template; leave it out")
    device = request.torch_device()
    dtype = request.torch_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16)
    attention = None
    if request.fast:
        attention = find_attention(request.attention, config.head_dim, device=device, dtype=dtype)
    elif request.attention is not None:
        raise UsageError(
            f"attn: got '{request.attention}' with --no-fast, which has attention of its own; leave one out"
        )
    if is_random:
        model, weights_hash = random_model(config, device=device, dtype=dtype), f"random, seed {SEED}"
    else:
        assert request.folder is not None  # a shape is always random
        model, weights_hash = read_model(request.folder, config, family.names, device=device, dtype=dtype)
    return PretrainedHost(
        name,
        family,
        model,
        tokens,
        special,
        attention=attention,
        revision=request.revision or LOCAL,
        weights_hash=weights_hash,
        is_chat=bool(chat),
        is_trained=not is_random,
    )


def _check_vocabulary(config: TransformerConfig, tokens: Tokens, special: tuple[int, int]) -> None:
    """Raise UsageError for tokens that the network does not know, and for special ids that are no tokens."""
    known = set(tokens.vocabulary.values())
    if (last := max([*known, *special])) >= config.vocab_size:
        raise UsageError(
            f"tokenizer: got id {last} in {tokens.where}, expected ids below the vocab_size {config.vocab_size}"
        )
    for what, i in zip(("mask", "end of text"), special, strict=True):
        if i not in known and not isinstance(tokens, ByteTokens):
            raise UsageError(
                f"tokenizer: got no token {i} in {tokens.where}, expected the {what} token to have that id"
            )
