"""`l2pd-bench bench loading`: seconds and peak memory of reading a checkpoint of a billion parameters.

The checkpoint is random, LLaDA-shaped, bfloat16 in several files, and is deleted again.
Every load is in a process of its own, whose memory before it is subtracted. Memory that
is mapped from files counts, as it does for whoever watches the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.llada import NAMES
from l2pd_bench.hosts.transformer import TransformerConfig

BILLION = TransformerConfig(vocab_size=32_000, d_model=2048, n_layers=18, n_heads=16, ffn_size=5632)
FILES = 4
DTYPES = ("bfloat16", "float32")
TARGET = 1.15  # of the weights' size in memory

_CHILD = """
import json, sys, time
from pathlib import Path
import torch
from l2pd_bench.hosts.llada import NAMES
from l2pd_bench.hosts.transformer import TransformerConfig
from l2pd_bench.hosts.weights import read_model

def bytes_of(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) * 1024

folder, config, dtype = json.loads(sys.argv[1])
before, began = bytes_of("VmRSS"), time.perf_counter()
model, _ = read_model(
    Path(folder), TransformerConfig(**config), NAMES, device=torch.device("cpu"), dtype=getattr(torch, dtype)
)
seconds = time.perf_counter() - began
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({"seconds": seconds, "peak": bytes_of("VmHWM") - before, "size": size}))
"""


def measure_loading(rounds: int, config: TransformerConfig = BILLION) -> dict[str, list[dict[str, float]]]:
    """By dtype, for each round: `seconds` (hashing included), `peak` bytes, and `size` of the weights in bytes."""
    if not Path("/proc/self/status").exists():
        raise UsageError("bench: loading is measured on Linux only, which tells a process's peak memory")
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), config)
        found: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in DTYPES}
        for _ in range(rounds):
            for dtype in DTYPES:
                words = json.dumps([folder, {**vars(config)}, dtype])
                done = subprocess.run([sys.executable, "-c", _CHILD, words], check=True, capture_output=True, text=True)
                found[dtype].append(json.loads(done.stdout))
    return found


def write_checkpoint(folder: Path, config: TransformerConfig) -> None:
    """Random weights under LLaDA's names, in `FILES` files with an index; no configuration, no tokenizer."""
    d, f = config.d_model, config.ffn_size
    layer = {"q": (d, d), "k": (d, d), "v": (d, d), "attn_out": (d, d), "gate": (f, d), "up": (f, d), "down": (d, f)}
    shapes: dict[str, tuple[int, ...]] = {NAMES[part]: (config.vocab_size, d) for part in ("embed", "head")}
    shapes[NAMES["norm"]] = (d,)
    for i in range(config.n_layers):
        shapes |= {
            NAMES[part].format(i=i): shape for part, shape in {**layer, "attn_norm": (d,), "ffn_norm": (d,)}.items()
        }
    names = sorted(shapes)
    generator = torch.Generator().manual_seed(0)
    where: dict[str, str] = {}
    for number in range(FILES):
        file = f"model-{number + 1:05}-of-{FILES:05}.safetensors"
        mine = names[number::FILES]
        save_file({f"{n}.weight": torch.randn(shapes[n], generator=generator).bfloat16() for n in mine}, folder / file)
        where |= {f"{name}.weight": file for name in mine}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
