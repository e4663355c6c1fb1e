"""The embedded tokenizer: printable ASCII comes back, and text never spells a special token."""

from __future__ import annotations

import random

import pytest

from l2pd_bench.hosts.mini import ASSISTANT, EOT, MASK, UNKNOWN, USER, MiniHost
from l2pd_bench.tasks.mini_code import MiniCode
from l2pd_bench.tasks.mini_list import MiniLineRandom, MiniList
from l2pd_bench.tasks.mini_math import MiniMath

PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"


@pytest.mark.parametrize("alphabet", [PRINTABLE, "ab1 \n", "<|>maskendoftxur", "if in def x: =\n"])
def test_round_trip_of_ascii(alphabet: str, mini: MiniHost) -> None:
    """Encoding and decoding give back any text of printable ASCII, runs of spaces and newlines included."""
    rng = random.Random(alphabet)
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 60)))

        assert mini.decode(mini.tokenizer.answer(text)) == text


@pytest.mark.parametrize("character", ["\t", "\r", "\0", "é", "日", "🙂"])
def test_other_characters_are_unknown(character: str, mini: MiniHost) -> None:
    """A character the vocabulary lacks becomes the unknown token, never MASK, EoT or a marker, and is not decoded."""
    ids = mini.tokenizer.answer(f"a{character}b")

    assert ids == [*mini.tokenizer.answer("a"), mini.tokenizer.raw.get_vocab()[UNKNOWN], *mini.tokenizer.answer("b")]
    assert mini.decode(ids) == "ab"


def test_round_trip_of_task_text(mini: MiniHost) -> None:
    """Encoding and decoding give back the prompts and references of the four tasks."""
    rng = random.Random(1)
    for task in (MiniMath(), MiniCode(), MiniList(), MiniLineRandom()):
        for _ in range(100):
            item = task.draw(rng)

            assert mini.decode(mini.tokenizer.answer(item.prompt)) == item.prompt
            assert mini.decode(mini.tokenizer.answer(item.reference)) == item.reference


@pytest.mark.parametrize("special", [MASK, EOT, USER, ASSISTANT, UNKNOWN])
def test_spelled_special_tokens_are_text(special: str, mini: MiniHost) -> None:
    """A prompt that spells a special token is plain text, and comes back as it was."""
    text = f"Say {special}{special} twice, {special}"
    specials = {mini.tokenizer.raw.get_vocab()[token] for token in (MASK, EOT, USER, ASSISTANT, UNKNOWN)}
    ids = mini.encode(text)

    assert not specials & set(ids[1:-1])
    assert mini.decode(ids[1:-1]) == text


def test_prompt_stands_in_the_chat_template(mini: MiniHost) -> None:
    """A prompt is user marker, text, assistant marker; decoding drops the markers."""
    ids = mini.encode("How many?")
    vocab = mini.tokenizer.raw.get_vocab()

    assert ids == [vocab[USER], *mini.tokenizer.answer("How many?"), vocab[ASSISTANT]]
    assert mini.decode([*ids, mini.mask_id, mini.eot_id]) == "How many?"


def test_digits_are_tokens_of_their_own(mini: MiniHost) -> None:
    """Every digit is one token."""
    assert len(mini.tokenizer.answer("1234567890")) == 10
    assert len(set(mini.tokenizer.answer("1234567890"))) == 10


def test_ids_fit_the_model(mini: MiniHost) -> None:
    """Ids run from 0 to the size of the model's head, and the special ones are different."""
    assert sorted(mini.tokenizer.raw.get_vocab().values()) == list(range(mini.vocab_size))
    assert mini.vocab_size == mini.model.config.vocab_size
    assert len({mini.mask_id, mini.eot_id, mini.tokenizer.user, mini.tokenizer.assistant}) == 4
