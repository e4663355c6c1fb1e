"""Dream checkpoints: shifted logits against transformers' Qwen2 and a slow forward, and prompts in their template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_factory import ABSENT, KV, VOCAB, Written, host_of, special_ids, write
from checkpoint_twins import differ, random_ids, slow_decode, slow_forward, twin, twin_logits
from feeding import feed

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.checkpoint import Fields
from l2pd_bench.hosts.dream import SHAPE_7B, shape
from l2pd_bench.hosts.pretrained import PretrainedHost
from l2pd_bench.hosts.session import ShiftedSession
from l2pd_bench.hosts.transformer import Transformer
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.threshold import Threshold

PADDING, LENGTH = [0, 3, 12], 40
PROMPTS = ("what is 3 times 4?", "def double(x):", "jumps")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A small Dream in three shards."""
    return write(tmp_path_factory.mktemp("models") / "Dream-tiny-Instruct", "dream")


@pytest.fixture(scope="module")
def host(written: Written) -> PretrainedHost:
    """It, loaded."""
    return host_of(written)


def test_whole_sequences_equal_shifted_qwen2(written: Written, host: PretrainedHost) -> None:
    """A block's logits are those of transformers' Qwen2 with a full mask one column to the left."""
    ids = random_ids(3, LENGTH)
    wanted = twin_logits(twin(written), ids, [0, 0, 0])
    with torch.inference_mode():
        got = feed(host.open([0, 0, 0], LENGTH, cached=False), ids, 0, slice(1, LENGTH))

    assert got.shape == (3, LENGTH - 1, VOCAB)
    assert float((got - wanted[:, :-1]).abs().max()) <= 1e-4
    assert float((got[:, :-1] - wanted[:, 1:-1]).abs().max()) > 1
    other = ids.clone()
    other[:, -1] += 1
    assert float((twin_logits(twin(written), other, [0, 0, 0]) - wanted)[:, 0].abs().max()) > 1e-3


@pytest.mark.parametrize("cached", [False, True])
def test_left_padded_rows_equal_qwen2(written: Written, host: PretrainedHost, cached: bool) -> None:
    """In a left-padded batch the block's logits are Qwen2's from one column to the left, whatever stands in padding."""
    ids = random_ids(3, LENGTH)
    wanted = twin_logits(twin(written), ids, PADDING)
    for row, pad in enumerate(PADDING):
        ids[row, :pad] = -1
    with torch.inference_mode():
        got = feed(host.open(PADDING, LENGTH, cached=cached), ids, 0, slice(13, LENGTH))

    assert float((got - wanted[:, 12:-1]).abs().max()) <= 1e-4


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_windows_keep_the_row_left_of_the_block(cache: str, written: Written, host: PretrainedHost) -> None:
    """A window that begins at its block predicts the first token from the row its block's first forward fed.

    The others are those of a slow forward which keeps the keys and values of all other columns. In a left-padded
    batch, for two blocks with rows dropped between them, and after a row has become shorter.
    """
    block_length, real = 8, [LENGTH - pad for pad in PADDING]
    rows = [random_ids(1, n, seed=n)[0].tolist() for n in real]
    session = host.open(PADDING, LENGTH, cached=True)
    kept, ends = [0, 1, 2], list(real)

    def columns(window: slice) -> torch.Tensor:
        padded = [[-1] * PADDING[i] + rows[i][: ends[i]] + [-1] * (real[i] - ends[i]) for i in kept]
        return torch.tensor(padded)[:, window]

    for start in (16, 24):
        block = slice(start, start + block_length)
        window = slice(start, LENGTH if cache == "prefix" else block.stop)
        with torch.inference_mode():
            feed(session, columns(slice(0, LENGTH)), 0, block, rows=kept)
            first = {i: slow_forward(written, rows[i][: ends[i]], range(ends[i]), None) for i in kept}
            for i in kept:
                rows[i][start - PADDING[i] - 1] = 5 + i  # is not fed again, so nobody may notice
                rows[i][start - PADDING[i] + 3] = 40 + i
            if start == 24:
                ends[2] -= 3
            lengths = [PADDING[i] + ends[i] for i in kept]
            got = feed(session, columns(window), start, block, rows=kept, lengths=lengths)
            for place, i in enumerate(kept):
                own = range(start - PADDING[i], min(window.stop, PADDING[i] + ends[i]) - PADDING[i])
                frozen = [(k[: ends[i]], v[: ends[i]]) for k, v in first[i][1]]
                inside, _ = slow_forward(written, rows[i][: ends[i]], own, frozen)
                wanted = torch.cat([first[i][0][own.start - 1 : own.start], inside])[:block_length]
                assert differ(got[place, : len(wanted)], wanted.float()) <= 1e-5
        if start == 16:
            kept = [2, 0]
            with pytest.raises(AssertionError, match="first forward feeds all columns"):
                feed(session, columns(slice(24, 32)), 24, slice(24, 32), rows=kept)


def test_a_row_moves_with_what_is_left_of_its_block(host: PretrainedHost) -> None:
    """In another slot a row's window is predicted as in its own: keys, values and the row left of the block move."""
    ids, block = random_ids(2, LENGTH), slice(16, 24)
    session = host.open([0, 0], LENGTH, cached=True)
    with torch.inference_mode():
        feed(session, ids, 0, block)
        stayed = feed(session, ids[1:, block], 16, block, rows=[1], slot=1)
        session.move(1, 0)
        moved = feed(session, ids[1:, block], 16, block, rows=[1], slot=0)

    assert torch.equal(moved, stayed)


def test_windows_that_begin_left_of_the_block(written: Written, host: PretrainedHost) -> None:
    """Where the row left of the block is fed, it is fed anew and predicts: nothing old is used."""
    rows = random_ids(1, LENGTH)[0].tolist()
    session = host.open([0], LENGTH, cached=True)
    with torch.inference_mode():
        feed(session, torch.tensor([rows]), 0, slice(16, LENGTH))
        _, frozen = slow_forward(written, rows, range(LENGTH), None)
        rows[17], rows[14] = 7, 8
        got = feed(session, torch.tensor([rows])[:, 12:30], 12, slice(18, 30))[0]
        wanted, _ = slow_forward(written, rows, range(12, 30), frozen)

    assert differ(got, wanted[5:-1].float()) <= 1e-5


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("tau", [None, 0.1])
def test_decode_equals_a_slow_loop(cache: str, tau: float | None, written: Written, host: PretrainedHost) -> None:
    """In float64 the engine fills in what a slow, shifted loop over the original tensors does, with every cache."""
    double = host_of(written)
    double.model.double()
    prompt = host.encode(PROMPTS[0])[-20:]
    strategy = FixedStep(k=1) if tau is None else Threshold(tau=tau)
    [got] = decode(double, strategy, [prompt], [0], DecodeSettings(24, 8, cache=cache)).samples
    with torch.inference_mode():
        wanted = slow_decode(written, prompt, host.mask_id, cache, 24, 8, tau)

    assert got.output_ids == wanted
    assert len(set(wanted)) > 8
    assert (got.nfe_full + got.nfe_window < 24) == (tau is not None)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_tokens_do_not_depend_on_the_batch(cache: str, host: PretrainedHost) -> None:
    """One token a step gives a prompt the same answer alone and in a left-padded batch."""
    prompts = [host.encode(prompt) for prompt in PROMPTS]
    settings = DecodeSettings(16, 8, cache=cache)
    together = decode(host, FixedStep(k=1), prompts, [0] * 3, settings).samples

    for prompt, sample in zip(prompts, together, strict=True):
        assert decode(host, FixedStep(k=1), [prompt], [0], settings).samples[0].output_ids == sample.output_ids


def test_a_block_whose_first_forward_is_kept_costs_no_more(host: PretrainedHost) -> None:
    """The kept row is fed once: a dual window has the block's columns only."""
    prompt = host.encode(PROMPTS[1])
    [sample] = decode(host, FixedStep(k=1), [prompt], [0], DecodeSettings(16, 8, cache="dual")).samples

    assert (sample.nfe_full, sample.nfe_window) == (2, 14)
    assert sample.positions == 2 * (len(prompt) + 16) + 14 * 8


@pytest.mark.parametrize("padding", [[0], [4, 0]])
def test_an_empty_prompt_is_an_error(padding: list[int], host: PretrainedHost) -> None:
    """With nothing before the answer its first token cannot be predicted; a batch with one such row is refused."""
    longest = max(padding)
    prompts = [[9] * (longest - pad) for pad in padding]

    with pytest.raises(UsageError, match="got an empty prompt; expected at least one token"):
        decode(host, FixedStep(k=1), prompts, [0] * len(padding), DecodeSettings(8, 8))


# ------------------------------------------------------------------ prompts


def test_a_chat_prompt_is_the_template_once(host: PretrainedHost) -> None:
    """The template's own system turn, the user's, and one header for the answer; the first token is not added."""
    ids = special_ids("dream")
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nwhat is 3 times 4?<|im_end|>\n"
        "<|im_start|>assistant\n12"
    )
    prompt = host.encode("what is 3 times 4?", "12")

    assert prompt == host.tokens.encode(text)
    assert (
        host.render([{"role": "user", "content": "what is 3 times 4?"}, {"role": "assistant", "content": "12"}]) == text
    )
    assert [prompt.count(i) for i in ids.values()] == [0, 3, 2, 0, 0]
    assert host.encode("what is 3 times 4?", "\n12\n") == host.tokens.encode(f"{text[:-2]}\n12\n")  # not trimmed


def test_a_plain_prompt_begins_with_the_first_token(host: PretrainedHost) -> None:
    """Without the template the ids are those of the text behind the tokenizer's first token, so it is never empty."""
    first = special_ids("dream")["<|beginoftext|>"]

    assert host.encode("dog", " 12", chat=False) == [first, *host.tokens.encode("dog 12")]
    assert host.encode("", chat=False) == [first]
    assert host.decode([first, *host.tokens.encode("dog 12"), host.eot_id]) == "dog 12"


def test_mask_in_a_prompt_is_refused(host: PretrainedHost) -> None:
    """A prompt cannot bring a mask along."""
    for chat in (True, False):
        with pytest.raises(UsageError, match=r"prompt: got one with the mask token of model 'Dream-tiny-Instruct'"):
            host.encode("fill <|mask|> in", chat=chat)


def test_the_template_may_stand_in_a_file_of_its_own(written: Written, host: PretrainedHost, tmp_path: Path) -> None:
    """chat_template.jinja is read where tokenizer_config.json has no template."""
    other = write(tmp_path / "Dream", "dream")
    settings = json.loads((other.folder / "tokenizer_config.json").read_text())
    (other.folder / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (other.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    again = host_of(other)

    assert again.is_chat
    assert again.encode("dog") == host.encode("dog")
    assert again.tokenizer_id == host.tokenizer_id


# ------------------------------------------------------------------ what it says of itself


def test_what_a_record_needs(host: PretrainedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, special ids, vocabulary and session are the checkpoint's."""
    ids = special_ids("dream")

    assert (host.name, host.revision, host.is_chat) == ("Dream-tiny-Instruct", "local", True)
    assert (host.mask_id, host.eot_id, host.vocab_size) == (ids["<|mask|>"], ids["<|endoftext|>"], VOCAB)
    assert "<|mask|>" not in host.vocabulary() and host.vocabulary()["<|beginoftext|>"] == ids["<|beginoftext|>"]
    session = host.open([0], 8, cached=True)
    assert isinstance(session, ShiftedSession) and session.room.store is not None
    assert session.room.store.shape == (3, 2, 1, 9, KV, 8)  # shared keys are stored once


def test_what_only_dream_has_is_not_asked_of_a_scorer(host: PretrainedHost) -> None:
    """Of Dream's own tokens, which stand behind Qwen2.5's 151,665, none is in the vocabulary a scorer must share."""
    vocabulary = {"a": 0, "<|file_sep|>": 151_664, "<|beginoftext|>": 151_665, "<|mask|>": 151_666, "<|own|>": 151_667}
    tokens = type("Tokens", (), {"vocabulary": vocabulary, "id": ""})()
    special = (151_666, 0)
    given = {"revision": "", "weights_hash": "", "is_chat": True, "is_trained": True, "attention": host._attention}
    big = PretrainedHost("big", host.family, host.model, tokens, special, **given)  # type: ignore[arg-type]

    assert big.vocabulary() == {"a": 0, "<|file_sep|>": 151_664}


@pytest.mark.parametrize(
    ("told", "named", "got"),
    [("mask", "mask", "mask"), (ABSENT, "mask", "mask"), (None, "mask", "mask"), ("mask", None, "mask")],
)
def test_where_mask_is_told(told: str | None, named: str | None, got: str, tmp_path: Path) -> None:
    """By config.json, by the tokenizer, or by both."""
    mask = special_ids("dream")["<|mask|>"]
    written = write(tmp_path, "dream", mask_token_id=mask if told == "mask" else told)
    if named is None:
        settings = (written.folder / "tokenizer_config.json").read_text()
        (written.folder / "tokenizer_config.json").write_text(settings.replace('"mask_token"', '"no_mask_token"'))

    assert host_of(written).mask_id == mask


def test_two_masks_are_refused(tmp_path: Path) -> None:
    """If config.json and tokenizer disagree about MASK, neither is believed; a token nobody has is refused."""
    written = write(tmp_path / "a", "dream", mask_token_id=7)
    with pytest.raises(
        UsageError, match=r"mask_token_id = 7 in '.*config\.json', expected \d+, the mask token of the tok"
    ):
        host_of(written)
    settings = (written.folder / "tokenizer_config.json").read_text()
    (written.folder / "tokenizer_config.json").write_text(settings.replace('"mask_token"', '"no_mask_token"'))
    fields = json.loads((written.folder / "config.json").read_text())
    for mask_id, message in (
        (None, "the tokenizer names none"),
        (VOCAB - 1, f"got no token {VOCAB - 1} in .*mask token"),
    ):
        (written.folder / "config.json").write_text(json.dumps(fields | {"mask_token_id": mask_id}))
        with pytest.raises(UsageError, match=message):
            host_of(written)


def test_the_end_of_an_answer_is_what_fills_the_canvas_behind_it(tmp_path: Path) -> None:
    """EoT is the tokenizer's padding token, which in DiffuCoder is another than the one config.json tells."""
    written = write(tmp_path, "dream")
    settings = json.loads((written.folder / "tokenizer_config.json").read_text())
    settings["pad_token"] = "<|im_end|>"
    (written.folder / "tokenizer_config.json").write_text(json.dumps(settings))

    assert host_of(written).eot_id == special_ids("dream")["<|im_end|>"]


def test_the_7b_shape_has_its_parameters() -> None:
    """The shape of Dream-7B has the 7,615,616,512 parameters of Qwen2.5-7B."""
    with torch.device("meta"):
        model = Transformer(shape(Fields(SHAPE_7B, "dream-7b")))

    assert sum(weight.numel() for weight in model.parameters()) == 7_615_616_512
