"""A checkpoint's weights: read whole and in place, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import ABSENT, KV, LAYERS, Written, host_of, write
from checkpoint_twins import in_llamas_words
from safetensors.torch import load_file, save_file

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.transformer import Transformer

KINDS = ("llada", "dream")
INDEX = "model.safetensors.index.json"


@pytest.fixture(params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    """A small checkpoint of each kind, for one test to spoil."""
    return write(tmp_path / f"{request.param}-tiny", request.param)


def change(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; ABSENT takes one out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value != ABSENT}))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_where_it_belongs(kind: str, shards: int, tmp_path: Path) -> None:
    """Each bit of each original tensor is in the network, in its slice of what is fused."""
    written = write(tmp_path, kind, shards=shards)
    model, original = host_of(written).model, in_llamas_words(written)
    used = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    used["lm_head.weight"] = model.head.weight
    for i in range(LAYERS):
        layer: Any = model.layers[i]
        heads = [32, KV * 8, KV * 8] if kind == "dream" else [32, 32, 32]
        parts = dict(
            zip(
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), layer.qkv.weight.split(heads), strict=True
            )
        )
        parts |= {"mlp.gate_proj": layer.gate_up.weight[:48], "mlp.up_proj": layer.gate_up.weight[48:]}
        parts |= {"mlp.down_proj": layer.down.weight, "self_attn.o_proj": layer.attn_out.weight}
        parts |= {"input_layernorm": layer.attn_norm.weight, "post_attention_layernorm": layer.ffn_norm.weight}
        used |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in parts.items()}
        if kind == "dream":
            q, k, v = layer.qkv.bias.split(heads)
            used |= {f"model.layers.{i}.self_attn.{n}_proj.bias": bias for n, bias in (("q", q), ("k", k), ("v", v))}

    assert used.keys() == original.keys()
    assert all(torch.equal(used[name].view(torch.int32), original[name].view(torch.int32)) for name in used)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert sum(w.numel() for w in model.parameters()) == sum(w.numel() for w in original.values())


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_are_converted(dtype: str, expected: torch.dtype, tmp_path: Path) -> None:
    """Weights are computed with in the dtype asked for, on a CPU float32 unless told otherwise."""
    written = write(tmp_path, "llada", dtype=torch.bfloat16)
    host = host_of(written, dtype=dtype)

    assert host.dtype == expected and {w.dtype for w in host.model.parameters()} == {expected}
    assert torch.equal(host.model.embed.weight, written.tensors["model.transformer.wte.weight"].to(expected))


Spoil = Callable[[Written], object]


def shard(written: Written, place: int = 0) -> Path:
    """One of the weight files."""
    return sorted(written.folder.glob("*.safetensors"))[place]


def edit(written: Written, work: Callable[[dict[str, torch.Tensor]], object], place: int = 0) -> None:
    """Change the tensors of a shard."""
    tensors = load_file(shard(written, place))
    work(tensors)
    save_file(tensors, shard(written, place), {"format": "pt"})


def reindex(written: Written, work: Callable[[dict[str, str]], object]) -> None:
    """Change the index."""
    index = json.loads((written.folder / INDEX).read_text())
    work(index["weight_map"])
    (written.folder / INDEX).write_text(json.dumps(index))


def norm(written: Written) -> str:
    """The last norm's name."""
    return "model.norm.weight" if written.kind == "dream" else "model.transformer.ln_f.weight"


def drop_norm(written: Written) -> None:
    """Leave a tensor out, from index and shard."""
    for place in range(3):
        edit(written, lambda tensors: tensors.pop(norm(written), None), place)
    reindex(written, lambda where: where.pop(norm(written)))


def add(name: str) -> Spoil:
    """Add a tensor, to index and shard."""

    def spoil(written: Written) -> None:
        edit(written, lambda tensors: tensors.update({name: torch.ones(3)}))
        reindex(written, lambda where: where.update({name: shard(written).name}))

    return spoil


def replace_norm(tensor: torch.Tensor) -> Spoil:
    """Another tensor in the place of the last norm."""

    def spoil(written: Written) -> None:
        for place in range(3):
            edit(
                written,
                lambda tensors: tensors.update({norm(written): tensor} if norm(written) in tensors else {}),
                place,
            )

    return spoil


def truncate(written: Written) -> None:
    """Cut the last bytes off."""
    shard(written).write_bytes(shard(written).read_bytes()[:-7])


def garble(written: Written) -> None:
    """Spoil the header."""
    shard(written).write_bytes(b"\xff" * 64)


def single(written: Written) -> None:
    """Put a whole file beside the shards."""
    save_file(written.tensors, written.folder / "model.safetensors", {"format": "pt"})


def pickle(written: Written) -> None:
    """Weights as a pickle only."""
    for path in [*written.folder.glob("*.safetensors"), written.folder / INDEX]:
        path.unlink()
    (written.folder / "pytorch_model.bin").write_bytes(b"")


FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing": (drop_norm, r"got 1 fault\(s\) in .*: no file has 'model\.\S*(ln_f|norm)\.weight'"),
    "surplus": (
        add("lm_head.bias"),
        r"got 1 fault\(s\) .*model-00001-of-00003.safetensors: has 'lm_head.bias', which is not",
    ),
    "misshaped": (replace_norm(torch.ones(31)), r"got 1 fault\(s\) .*' is \(31,\), expected \(32,\)"),
    "quantised": (
        replace_norm(torch.ones(32, dtype=torch.int8)),
        r"got 1 fault\(s\) .*is I8, expected one of F64, .*quan",
    ),
    "absent shard": (lambda w: shard(w).unlink(), r"model-00001-of-00003.safetensors: cannot be read \(No such file"),
    "truncated": (truncate, r"got 1 fault\(s\) .*model-00001-of-00003.safetensors: cannot be read"),
    "garbled": (garble, r"got 1 fault\(s\) .*model-00001-of-00003.safetensors: cannot be read"),
    "index says more": (
        lambda w: edit(w, lambda tensors: tensors.pop(min(tensors))),
        r"model-00001-of-00003.safetensors: lacks '\S+', which the index says is in it",
    ),
    "index says less": (
        lambda w: reindex(w, lambda where: where.pop(norm(w))),
        r"model-0000\d-of-00003.safetensors: has '\S+(ln_f|norm).weight', which the index says is not in it",
    ),
    "twice": (
        lambda w: [edit(w, lambda t: t.update({norm(w): w.tensors[norm(w)]}), i) for i in range(3)],
        r"got 2 fault\(s\) .*which the index says is not in it",
    ),
    "two of them": (single, r"got both model.safetensors.index.json and model.safetensors"),
    "pickle": (pickle, r"got pytorch_model.bin, which is a pickle and is never read"),
    "no weights": (
        lambda w: (pickle(w), (w.folder / "pytorch_model.bin").unlink()),
        "weights: got neither in",
    ),
    "no index": (lambda w: change(w.folder / INDEX, weight_map=[]), r"got no weight_map in '.*index.json'"),
    "broken index": (lambda w: (w.folder / INDEX).write_text("{"), r"weights: '.*index.json' cannot be read"),
    "another network": (
        lambda w: change(w.folder / "config.json", n_layers=4, num_hidden_layers=4),
        r"got (9|12) fault\(s\) .*no file has .*no file has .*; and [47] more; get the files again",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_whole(fault: str, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with the files is told by name, before memory for the network is allocated."""
    spoil, message = FAULTS[fault]
    spoil(written)
    monkeypatch.setattr(Transformer, "to_empty", None)

    with pytest.raises(UsageError, match=message):
        host_of(written)


def test_buffers_of_old_versions_are_ignored(written: Written) -> None:
    """A stored rotary table says nothing that config.json does not."""
    add("model.layers.0.self_attn.rotary_emb.inv_freq")(written)

    assert host_of(written).is_trained


@pytest.mark.parametrize("shards", [1, 3])
def test_the_hash_is_of_every_byte(shards: int, tmp_path: Path) -> None:
    """The weights' hash is the same for the same files, and another if one byte of a shard or of the index is."""
    written = write(tmp_path / "a", "llada", shards=shards)
    before = host_of(written).weights_hash

    assert len(before) == 64 and host_of(write(tmp_path / "b", "llada", shards=shards)).weights_hash == before
    path = shard(written, shards - 1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = host_of(written).weights_hash
    assert after != before
    if shards > 1:
        (written.folder / INDEX).write_text((written.folder / INDEX).read_text() + "\n")
        assert host_of(written).weights_hash not in (before, after)
