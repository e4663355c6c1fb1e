"""Reads a checkpoint's safetensors into a `Transformer`, every tensor checked before any is read.

The original tensors go straight to where they belong, which may be a slice of a fused
parameter. What they are called there is for the families to say (`llada.py`, `dream.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.checkpoint import read_json
from l2pd_bench.hosts.transformer import Transformer, TransformerConfig

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them
IGNORED = "rotary_emb.inv_freq"  # how buffers end that old versions stored, and config.json implies
SHOWN = 5  # faults in one message
SEED = 0  # of random weights
STD = 0.02  # of random weights: logits of about 1, and activations far from the limits of any dtype


@dataclass(frozen=True)
class Shards:
    """A checkpoint's weight files, by name, with the tensors that the index says are in each (None: all)."""

    files: dict[Path, set[str] | None]
    index: Path | None


def find_shards(folder: Path) -> Shards:
    """The files that hold a folder's weights; a UsageError if it is not told which, or there are none."""
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file() and single.is_file():
        raise UsageError(f"weights: got both {INDEX} and {SINGLE} in '{folder}', expected one; move the other away")
    if single.is_file():
        return Shards({single: None}, None)
    if not index.is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        found = f"{pickles[0]}, which is a pickle and is never read" if pickles else "neither"
        raise UsageError(
            f"weights: got {found} in '{folder}', expected {SINGLE} or {INDEX}; convert the weights to safetensors"
        )
    where = read_json(index, "weights").get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise UsageError(f"weights: got no weight_map in '{index}', expected the file of every tensor")
    files: dict[Path, set[str] | None] = {folder / name: set() for name in sorted(set(where.values()))}
    for key, name in where.items():
        files[folder / name].add(key)  # type: ignore[union-attr]  # they are sets here
    return Shards(files, index)


def places(model: Transformer, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Each original tensor's name and where its content belongs.

    `names` are the original ones, without ".weight" and ".bias", of embed, norm, head, and
    of each layer's attn_norm, q, k, v, attn_out, ffn_norm, gate, up, down with {i} for its number.
    """
    config = model.config
    found = {f"{names[part]}.weight": getattr(model, part).weight for part in ("embed", "norm", "head")}
    heads = [config.d_model, config.kv_size, config.kv_size]
    layers: list[Any] = list(model.layers)
    for i, layer in enumerate(layers):
        parts = {part: getattr(layer, part).weight for part in ("attn_norm", "attn_out", "ffn_norm", "down")}
        parts |= dict(zip("qkv", layer.qkv.weight.split(heads), strict=True))
        parts |= dict(zip(("gate", "up"), layer.gate_up.weight.split(config.ffn_size), strict=True))
        found |= {f"{names[part].format(i=i)}.weight": tensor for part, tensor in parts.items()}
        if config.qkv_bias:
            biases = zip("qkv", layer.qkv.bias.split(heads), strict=True)
            found |= {f"{names[part].format(i=i)}.bias": tensor for part, tensor in biases}
    return found


def read_model(
    folder: Path, config: TransformerConfig, names: Mapping[str, str], *, device: torch.device, dtype: torch.dtype
) -> tuple[Transformer, str]:
    """A network with a folder's weights in it, and their hash.

    Its memory is allocated once, on the device; beyond it, one tensor of a file is mapped
    at a time. Raises UsageError, with nothing allocated, unless the files hold exactly
    the tensors of the network.
    """
    shards = find_shards(folder)
    with torch.device("meta"):
        model = Transformer(config)
    expected = places(model, names)
    found, faults = _inspect(shards, expected)
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UsageError(
            f"weights: got {len(faults)} fault(s) in '{folder}', expected the {len(expected)} tensors that its "
            f"config.json implies: {'; '.join(faults[:SHOWN])}{more}; get the files again, or another checkpoint"
        )
    model = model.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_digest, shards.files)  # meanwhile
        for key, place in places(model, names).items():
            with safe_open(found[key], "pt", device="cpu") as stored:  # anew: closing it unmaps what was read
                place.copy_(stored.get_tensor(key))
        whole = hashlib.sha256(shards.index.read_bytes() if shards.index else b"")
        for path, digest in zip(shards.files, digests, strict=True):
            whole.update(f"{path.name} {digest}\n".encode())
    return model, whole.hexdigest()


def random_model(config: TransformerConfig, *, device: torch.device, dtype: torch.dtype) -> Transformer:
    """A network with seeded random weights, made on the device: norms 1, biases 0, matrices normal.

    Those that add to the residual stream are smaller, by the root of how many do (as in GPT-2).
    """
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    draws = torch.Generator(device).manual_seed(SEED)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            is_residual = name.endswith(("attn_out.weight", "down.weight"))
            weight.normal_(std=STD / (2 * config.n_layers) ** 0.5 if is_residual else STD, generator=draws)
    return model


def _inspect(shards: Shards, expected: Mapping[str, Tensor]) -> tuple[dict[str, Path], list[str]]:
    """The file of each tensor, and what is wrong: only the headers of the files are read."""
    found: dict[str, Path] = {}
    faults: list[str] = []
    for path, promised in shards.files.items():
        try:
            with safe_open(path, "pt", device="cpu") as stored:
                keys = set(stored.keys())
                parts = {key: stored.get_slice(key) for key in sorted(keys)}
                about = {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in parts.items()}
        except (OSError, SafetensorError) as error:
            faults.append(f"{path.name}: cannot be read ({error})")
            found |= dict.fromkeys(promised or (), path)  # so that they are not also missing
            continue
        if promised is not None:
            faults += [f"{path.name}: lacks '{key}', which the index says is in it" for key in sorted(promised - keys)]
            faults += [
                f"{path.name}: has '{key}', which the index says is not in it" for key in sorted(keys - promised)
            ]
            found |= dict.fromkeys(promised, path)
        for key, (dtype, shape) in about.items():
            found[key] = path
            if key not in expected:
                faults += [] if key.endswith(IGNORED) else [f"{path.name}: has '{key}', which is not part of the model"]
            elif dtype not in FLOATS:
                faults.append(
                    f"{path.name}: '{key}' is {dtype}, expected one of {', '.join(FLOATS)}: no quantised weights"
                )
            elif shape != (wanted := tuple(expected[key].shape)):
                faults.append(f"{path.name}: '{key}' is {shape}, expected {wanted}")
    faults += [f"no file has '{key}'" for key in expected if key not in found]
    return found, faults


def _digest(path: Path) -> str:
    """SHA-256 of a file's content. In the hub's cache, a large file is stored under it, so it is not read."""
    stored = path.resolve()
    if stored.parent.name == "blobs" and len(stored.name) == 64 and not set(stored.name) - set("0123456789abcdef"):
        return stored.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
