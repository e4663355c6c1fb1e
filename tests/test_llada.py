"""LLaDA checkpoints: the network against transformers' Llama and a slow forward, and prompts in their template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import HEADS, LAYERS, VOCAB, D, Written, host_of, special_ids, write
from checkpoint_twins import differ, random_ids, slow_decode, slow_forward, twin, twin_logits
from feeding import feed
from slow_forward import rotate

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.checkpoint import Fields
from l2pd_bench.hosts.llada import FAMILY, SHAPE_8B, shape
from l2pd_bench.hosts.pretrained import PretrainedHost
from l2pd_bench.hosts.session import TransformerSession
from l2pd_bench.hosts.transformer import Transformer
from l2pd_bench.strategies.fixed_step import FixedStep
from l2pd_bench.strategies.threshold import Threshold

PADDING, LENGTH = [0, 3, 17], 40
PROMPTS = ("what is 3 times 4?", "def double(x):", "jumps")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A small LLaDA in three shards."""
    return write(tmp_path_factory.mktemp("models") / "LLaDA-tiny-Instruct", "llada")


@pytest.fixture(scope="module")
def host(written: Written) -> PretrainedHost:
    """It, loaded."""
    return host_of(written)


def test_whole_sequences_equal_llama(written: Written, host: PretrainedHost) -> None:
    """The logits are those of transformers' Llama with a full mask, and a late token changes an early one."""
    ids = random_ids(3, LENGTH)
    wanted = twin_logits(twin(written), ids, [0, 0, 0])
    with torch.inference_mode():
        got = feed(host.open([0, 0, 0], LENGTH, cached=False), ids, 0, slice(0, LENGTH))

    assert got.shape == (3, LENGTH, VOCAB) and got.dtype == torch.float32
    assert float((got - wanted).abs().max()) <= 1e-4
    other = ids.clone()
    other[:, -1] += 1
    assert float((twin_logits(twin(written), other, [0, 0, 0]) - wanted)[:, 0].abs().max()) > 1e-3


@pytest.mark.parametrize("cached", [False, True])
def test_left_padded_rows_equal_llama(written: Written, host: PretrainedHost, cached: bool) -> None:
    """In a left-padded batch every real column has Llama's logits, whatever stands in the padding."""
    ids = random_ids(3, LENGTH)
    wanted = twin_logits(twin(written), ids, PADDING)
    for row, pad in enumerate(PADDING):
        ids[row, :pad] = -1
    with torch.inference_mode():
        got = feed(host.open(PADDING, LENGTH, cached=cached), ids, 0, slice(0, LENGTH))

    for row, pad in enumerate(PADDING):
        assert float((got[row, pad:] - wanted[row, pad:]).abs().max()) <= 1e-4


def test_fewer_keys_than_heads_equal_llama(tmp_path: Path) -> None:
    """A config.json with fewer n_kv_heads than n_heads is computed as Llama computes it."""
    written = write(tmp_path, "llada", n_kv_heads=2)
    ids = random_ids(2, LENGTH)
    with torch.inference_mode():
        got = feed(host_of(written).open([0, 0], LENGTH, cached=False), ids, 0, slice(0, LENGTH))

    assert float((got - twin_logits(twin(written), ids, [0, 0])).abs().max()) <= 1e-4


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_windows_equal_frozen_keys_and_values(cache: str, written: Written, host: PretrainedHost) -> None:
    """A window's logits are those of a slow forward that keeps the keys and values of all other columns."""
    rows = random_ids(1, LENGTH)[0].tolist()
    block = slice(16, 24)
    window = slice(16, LENGTH if cache == "prefix" else 24)
    session = host.open([0], LENGTH, cached=True)
    with torch.inference_mode():
        feed(session, torch.tensor([rows]), 0, block)
        _, frozen = slow_forward(written, rows, range(LENGTH), None)
        rows[18], rows[3], rows[-1] = 7, 8, 9  # one in the block, one before and one behind it
        got = feed(session, torch.tensor([rows])[:, window], window.start, block)[0]
        wanted = slow_forward(written, rows, range(window.start, window.stop), frozen)[0][:8]

    assert differ(got, wanted.float()) <= 1e-5


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("tau", [None, 0.1])
def test_decode_equals_a_slow_loop(cache: str, tau: float | None, written: Written, host: PretrainedHost) -> None:
    """In float64 the engine fills in what a slow loop over the original tensors does, with every cache."""
    double = host_of(written)
    double.model.double()
    prompt = host.encode(PROMPTS[0])[-20:]
    strategy = FixedStep(k=1) if tau is None else Threshold(tau=tau)
    [got] = decode(double, strategy, [prompt], [0], DecodeSettings(24, 8, cache=cache)).samples
    with torch.inference_mode():
        wanted = slow_decode(written, prompt, host.mask_id, cache, 24, 8, tau)

    assert got.output_ids == wanted
    assert len(set(wanted)) > 8  # the weights are no accident of constant output
    assert (got.nfe_full + got.nfe_window < 24) == (tau is not None)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_tokens_do_not_depend_on_the_batch(cache: str, host: PretrainedHost) -> None:
    """One token a step gives a prompt the same answer alone and in a left-padded batch."""
    prompts = [host.encode(prompt) for prompt in PROMPTS]
    settings = DecodeSettings(16, 8, cache=cache)
    together = decode(host, FixedStep(k=1), prompts, [0] * 3, settings).samples

    for prompt, sample in zip(prompts, together, strict=True):
        assert decode(host, FixedStep(k=1), [prompt], [0], settings).samples[0].output_ids == sample.output_ids


def test_half_precision_rotates_in_float32(written: Written, tmp_path: Path) -> None:
    """With rope_full_precision, bfloat16 keys are rotated in float32 and rounded once; without, angles are rounded."""
    rough = write(tmp_path, "llada", rope_full_precision=False)
    ids, shares = random_ids(1, 400), []
    for host in (host_of(written, dtype="bfloat16"), host_of(rough, dtype="bfloat16")):
        layer: Any = host.model.layers[0]
        session = host.open([0], 400, cached=True)
        assert isinstance(session, TransformerSession) and session.room.store is not None
        with torch.inference_mode():
            feed(session, ids, 0, slice(0, 8))
            keys = layer.qkv(layer.attn_norm(host.model.embed(ids)))[0, :, D : 2 * D].view(400, HEADS, -1)
        wanted = rotate(keys.float(), range(400), written.fields["rope_theta"]).bfloat16()
        shares.append(float((session.room.store[0, 0, 0, :400] == wanted).float().mean()))

    assert host.dtype == torch.bfloat16
    assert shares[0] > 0.999 and shares[1] < 0.9


# ------------------------------------------------------------------ prompts


def test_a_chat_prompt_is_the_template_once(host: PretrainedHost) -> None:
    """One first token, one assistant header, nothing between it and what the answer begins with."""
    ids = special_ids("llada")
    text = (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nwhat is 3 times 4?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n12"
    )
    prompt = host.encode("what is 3 times 4?\n ", "12")

    assert prompt == host.tokens.encode(text)
    assert prompt == host.encode_rendered(text)
    assert (
        host.render([{"role": "user", "content": "what is 3 times 4?"}, {"role": "assistant", "content": "12"}]) == text
    )
    assert [prompt.count(ids[token]) for token in ("<|startoftext|>", "<|start_header_id|>", "<|eot_id|>")] == [1, 2, 1]
    assert host.decode(prompt).endswith("assistant\n\n12")
    # The template trims every turn, so lm-eval's prompts for this model have what the answer begins with trimmed, too.
    assert host.encode("what is 3 times 4?", "\n12\n") == prompt


def test_a_plain_prompt_has_nothing_added(host: PretrainedHost) -> None:
    """Without the template the ids are those of the text and what the answer begins with, and decode gives it back."""
    prompt = host.encode("Question: what\nAnswer:", " 12", chat=False)

    assert prompt == host.tokens.encode("Question: what\nAnswer: 12")
    assert not set(prompt) & set(special_ids("llada").values())
    assert host.decode(prompt) == "Question: what\nAnswer: 12"
    assert host.decode([*prompt, host.eot_id, host.mask_id]) == "Question: what\nAnswer: 12"


@pytest.mark.parametrize("chat", [True, False])
def test_mask_in_a_prompt_is_refused(chat: bool, host: PretrainedHost) -> None:
    """A prompt cannot bring a mask along, which would never be filled; other special tokens are those they spell."""
    with pytest.raises(UsageError, match=r"mask token of model 'LLaDA-tiny-Instruct'"):
        host.encode("fill <|mdm_mask|> in", chat=chat)

    assert special_ids("llada")["<|eot_id|>"] in host.encode("end <|eot_id|>", chat=False)


@pytest.mark.parametrize(
    ("folder", "model", "is_chat"),
    [
        ("LLaDA-8B-Base", "", False),
        ("LLaDA-1.5", "", True),
        ("LLaDA-8B-base", ":chat=true", True),
        ("LLaDA-8B-Instruct", ":chat=false", False),
    ],
)
def test_who_is_trained_to_chat(folder: str, model: str, is_chat: bool, tmp_path: Path) -> None:
    """A checkpoint with a template is, unless its name says base; `chat` overrides that, and decides `encode`."""
    host = host_of(write(tmp_path / "base" / folder, "llada", shards=1), model)

    assert (host.name, host.is_chat) == (folder, is_chat)
    assert host.encode("dog") == host.encode("dog", chat=is_chat) != host.encode("dog", chat=not is_chat)


def test_no_template_no_chat(written: Written, tmp_path: Path) -> None:
    """Without a template a checkpoint is no chat model, and a chat prompt is an error."""
    other = write(tmp_path, "llada", shards=1)
    settings = (other.folder / "tokenizer_config.json").read_text()
    (other.folder / "tokenizer_config.json").write_text(settings.replace("chat_template", "no_template"))
    host = host_of(other)

    assert not host.is_chat
    with pytest.raises(UsageError, match=r"chat: got no template in .* use --model NAME:chat=false"):
        host.encode("dog", chat=True)
    with pytest.raises(UsageError, match=r"chat: got true for model .* has no chat template"):
        host_of(other, ":chat=true")


# ------------------------------------------------------------------ what it says of itself


def test_what_a_record_needs(written: Written, host: PretrainedHost) -> None:
    """Name, revision, special ids and vocabulary are the checkpoint's."""
    ids = special_ids("llada")

    assert (host.name, host.revision, host.attention) == ("LLaDA-tiny-Instruct", "local", "sdpa")
    assert (host.mask_id, host.eot_id, host.vocab_size) == (ids["<|mdm_mask|>"], ids["<|endoftext|>"], VOCAB)
    assert (host.is_trained, host.trained_tasks, host.dtype) == (True, None, torch.float32)
    assert "<|mdm_mask|>" not in host.vocabulary() and host.vocabulary()["<|endoftext|>"] == host.eot_id
    assert len(host.vocabulary()) == max(ids.values())
    assert len(host.model.layers) == LAYERS
    with pytest.raises(UsageError, match=r"scorer: got none for model 'LLaDA-tiny-Instruct'.*same tokenizer"):
        host.companion()


def test_the_8b_shape_has_its_parameters() -> None:
    """The shape of LLaDA-8B has 8,015,581,184 parameters, as its index says (16,031,162,368 bytes in bfloat16)."""
    with torch.device("meta"):
        model = Transformer(shape(Fields(SHAPE_8B, "llada-8b")))

    assert sum(weight.numel() for weight in model.parameters()) == 16_031_162_368 // 2
    assert FAMILY.session is TransformerSession
