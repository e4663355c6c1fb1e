"""A checkpoint's tokenizer and chat template, by transformers' own classes; and bytes, where there is none.

No code that comes with a checkpoint is run. Special tokens that a text spells out are
tokens, as transformers has it, so that ids are those of everyone else's evaluations; what
must not be in a prompt is for the host to refuse.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.checkpoint import read_json

SETTINGS = "tokenizer_config.json"
NEEDED = {  # by a class of transformers, one of these sets of files; with less it makes another tokenizer, silently
    "PreTrainedTokenizerFast": (("tokenizer.json", SETTINGS),),
    "Qwen2Tokenizer": (("tokenizer.json", SETTINGS), ("vocab.json", "merges.txt", SETTINGS)),
}


class Tokens(Protocol):
    """Text to ids and back."""

    id: str  # of the vocabulary: equal ids mean equal token ids
    where: str  # for errors
    vocabulary: dict[str, int]
    has_template: bool
    bos_id: int | None
    mask_id: int | None
    pad_id: int | None

    def template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat (of "role" and "content") as text, up to where the answer begins, or goes on."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens dropped."""
        ...


class FileTokens:
    """The tokenizer in a checkpoint's folder, read by the class of transformers that is named `kind`, of NEEDED."""

    def __init__(self, folder: Path, kind: str) -> None:
        import transformers

        self.where = f"'{folder}'"
        if not any(all((folder / name).is_file() for name in names) for names in NEEDED[kind]):
            sets = " or ".join(" and ".join(names) for names in NEEDED[kind])
            raise UsageError(f"tokenizer: got no whole one in '{folder}', expected {sets}; get the files again")
        try:
            self.raw: Any = getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of whatever kind: the files are a stranger's
            reason = " ".join(str(error).split())
            raise UsageError(
                f"tokenizer: got files in '{folder}' that transformers' {kind} cannot read ({reason}); "
                "get them again, or another checkpoint"
            ) from error
        self.vocabulary: dict[str, int] = self.raw.get_vocab()
        self.id = hashlib.sha256(json.dumps(self.vocabulary, sort_keys=True).encode()).hexdigest()
        self.has_template = self.raw.chat_template is not None
        self.bos_id: int | None = self.raw.bos_token_id
        self.mask_id: int | None = self.raw.mask_token_id
        self.pad_id: int | None = self.raw.pad_token_id
        self._check(folder / SETTINGS)

    def template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """See `Tokens.template`; the template of LLaDA begins the answer whether it is asked to or not.

        What an answer begins with is cut out of the rendered turn by transformers, so that it
        is trimmed where the template trims, as in lm-eval.
        """
        is_begun = bool(messages) and messages[-1]["role"] == "assistant"
        how = {"continue_final_message": True} if is_begun else {"add_generation_prompt": True}
        try:
            text: str = self.raw.apply_chat_template(list(messages), tokenize=False, **how)
        except Exception as error:  # a template can raise what it likes
            roles = ", ".join(message["role"] for message in messages) or "nobody"
            raise UsageError(
                f"chat: got turns of {roles}, which the template in {self.where} refuses: {error}"
            ) from error
        return text

    def encode(self, text: str) -> list[int]:
        """See `Tokens.encode`."""
        ids: list[int] = self.raw(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokens.decode`."""
        text: str = self.raw.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _check(self, path: Path) -> None:
        """Raise UsageError unless added tokens have the ids that the settings say: a gap would shift them."""
        if not path.is_file():
            return
        for i, token in read_json(path, "tokenizer").get("added_tokens_decoder", {}).items():
            if (got := self.vocabulary.get(token["content"])) != int(i):
                raise UsageError(
                    f"tokenizer: got id {got} for '{token['content']}', expected {i}, as '{path}' says; "
                    "are vocab.json and merges.txt those of the checkpoint?"
                )


class ByteTokens:
    """A stand-in where a model's shape is used without its files: UTF-8 bytes are ids 0 to 255."""

    id = "utf-8 bytes, a stand-in"
    where = "the stand-in for a tokenizer"
    has_template = False
    bos_id: int | None = None
    mask_id: int | None = None
    pad_id: int | None = None

    def __init__(self) -> None:
        self.vocabulary = {f"<0x{i:02X}>": i for i in range(256)}

    def template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """There is none."""
        raise AssertionError("has_template says so")

    def encode(self, text: str) -> list[int]:
        """See `Tokens.encode`."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokens.decode`; what is no byte is dropped, what is no UTF-8 is replaced."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")
