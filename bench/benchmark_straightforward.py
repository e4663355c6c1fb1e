"""`l2pd-bench bench straightforward`: the engine against a plain loop in the manner of the published code.

On the same weights, with the same strategy, end to end, in turns; whether both give the
same tokens and take as many forwards is a figure too. Without a model named, it is
measured on the embedded one, and on random weights in all proportions of LLaDA-8B but
smaller: the vocabulary is as large beside `d_model`, and the layers are as many.
"""

from __future__ import annotations

from collections.abc import Sequence

from l2pd_bench.benchmark_figure import Figure
from l2pd_bench.benchmark_setup import Setup, network
from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.base import Host, HostRequest
from l2pd_bench.hosts.llada import FAMILY, SHAPE_8B
from l2pd_bench.hosts.pretrained import load_shape
from l2pd_bench.hosts.session import ShiftedSession
from l2pd_bench.measure import Stopwatch
from l2pd_bench.registry import load_strategy
from l2pd_bench.straightforward import Plain, decode_plainly

TARGETS: dict[str, float | None] = {"none": 2.0, "prefix": None, "dual": 3.0}
STRATEGIES: dict[str, float | None] = {"fixed-step": None, "threshold": 0.9}
SMALLER = 32  # than LLaDA-8B is the scaled shape, in every size
PROMPT, GEN = 128, 64  # of the scaled shape: a decode takes seconds on a core
ALONE = 2  # samples


def scaled_host(smaller: int = SMALLER, **sizes: int) -> Host:
    """Random weights in the proportions of LLaDA-8B, but for `sizes` of its config.json."""
    scaled = ("d_model", "mlp_hidden_size", "embedding_size", "vocab_size", "eos_token_id", "mask_token_id")
    heads = dict.fromkeys(("n_heads", "n_kv_heads"), 4)
    config = {**SHAPE_8B, **{name: SHAPE_8B[name] // smaller for name in scaled}, **heads, **sizes}  # type: ignore[operator]
    name = f"llada-8b / {smaller}"
    return load_shape(HostRequest(name, device="cpu", dtype="float32", weights="random"), FAMILY, config)


def measure_straightforward(rounds: int, setup: Setup) -> list[Figure]:
    """All figures, by interleaved rounds."""
    host = setup.load()
    label = host.name if host.is_trained else f"{host.name} at random"
    figures = _compare(label, host, setup.prompts(host, ALONE), setup, rounds, STRATEGIES)
    if setup.changed:
        return figures
    small, sizes = scaled_host(), Setup(prompt_length=PROMPT, gen_length=GEN)
    network_ = network(small).config
    label = f"{small.name}: d_model {network_.d_model}, {network_.vocab_size} tokens, {network_.n_layers} layers"
    return figures + _compare(label, small, sizes.prompts(small, 1), sizes, rounds, {"threshold": 0.9})


def _compare(
    label: str, host: Host, prompts: Sequence[list[int]], setup: Setup, rounds: int, strategies: dict[str, float | None]
) -> list[Figure]:
    if isinstance(host.open([0], setup.block_length, cached=False), ShiftedSession):
        raise UsageError(f"model: got '{host.name}', which predicts from the left; the plain loop is of LLaDA's kind")
    figures = []
    for name, threshold in strategies.items():
        for cache in setup.caches or TARGETS:
            settings = setup.settings(cache)
            pairs = [compare_once(host, prompts, name, threshold, settings) for _ in range(rounds + 1)][1:]
            what = f"{name}, cache {cache}, {label}"
            exact = 1.0 if str(host.dtype) == "torch.float32" else None  # else rounding decides between near picks
            figures += [
                Figure(
                    f"straightforward / engine, seconds, {what}", [ratio for ratio, _ in pairs], at_least=TARGETS[cache]
                ),
                Figure(f"share of equal samples, {what}", [equal for _, equal in pairs], at_least=exact),
            ]
    return figures


def compare_once(
    host: Host, prompts: Sequence[list[int]], name: str, threshold: float | None, settings: DecodeSettings
) -> tuple[float, float]:
    """How many times the engine's seconds the plain loop takes, and the share of samples equal in tokens and NFE."""
    strategy, _ = load_strategy(name if threshold is None else f"{name}:tau={threshold}")
    engine_s = plain_s = 0.0
    equal = 0
    for prompt in prompts:
        watch = Stopwatch(host.device)
        ours = decode(host, strategy, [prompt], [0], settings).samples[0]
        engine_s += watch.finish()[0]
        watch = Stopwatch(host.device)
        plain = decode_plainly(
            network(host),
            prompt,
            mask_id=host.mask_id,
            gen_length=settings.gen_length,
            block_length=settings.block_length,
            cache=settings.cache,
            threshold=threshold,
        )
        plain_s += watch.finish()[0]
        equal += plain == Plain(ours.output_ids, ours.nfe_full + ours.nfe_window)
    return plain_s / engine_s, equal / len(prompts)
