"""Learn2PD against a slow reading of its pseudocode, its filter's network, and its filter files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from feeding import feed
from filter_factory import make_card, random_filter, random_host, write_filter

from l2pd_bench.decode_settings import DecodeSettings
from l2pd_bench.engine import decode
from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.registry import load_strategy
from l2pd_bench.strategies import filter_file
from l2pd_bench.strategies.filter_file import Filter, dump_filter, read_filter
from l2pd_bench.strategies.learn2pd import Learn2PD

Prompts = Callable[[int, int], list[list[int]]]
BLOCK = 32


# ------------------------------------------------------------------ the slow reading


@dataclass
class Reading:
    """A decode of one prompt, and what happened in it."""

    output_ids: list[int]
    nfe: int = 0
    accepted: int = 0
    refused: int = 0
    accepted_eot: int = 0  # cuts by rule 1
    hinted_here: int = 0  # by rule 2, in the block
    hinted_ahead: int = 0  # by rule 2, behind the block


def slow_filter(net: Filter, fed: list[float]) -> list[float]:
    """Sigmoids of the layers' sums, in float64."""
    values = fed
    for i, layer in enumerate(net.layers):
        rows, biases = layer.weight.tolist(), layer.bias.tolist()
        sums = [
            math.fsum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(rows, biases, strict=True)
        ]
        values = sums if i + 1 == len(net.layers) else [max(s, 0.0) for s in sums]
    return [1 / (1 + math.exp(-v)) for v in values]


def slow_learn2pd(host: MiniHost, net: Filter, prompt: list[int], gen: int, tau: float, *, eotp: bool) -> Reading:
    """One canvas as a list, the whole of it fed at every step; what EoT prediction cuts off is deleted from it."""
    mask, eot = host.mask_id, host.eot_id
    x = [*prompt, *[mask] * gen]
    seen = Reading([])
    start = len(prompt)
    while start < len(x):
        while mask in x[start : start + BLOCK]:
            logits = feed(host.open([0], len(x), cached=False), torch.tensor([x]), 0, slice(start, len(x)))[0].float()
            logits[:, mask] = -math.inf
            top, picks = logits.max(-1)
            token = dict(enumerate(picks.tolist(), start))
            conf = dict(enumerate((top - logits.logsumexp(-1)).exp().tolist(), start))
            seen.nfe += 1
            block = range(start, min(start + BLOCK, len(x)))
            sure = slow_filter(net, [conf[c] if c in block else 0.0 for c in range(start, start + BLOCK)])
            masked = [c for c in block if x[c] == mask]
            accepted = [c for c in masked if sure[c - start] > tau]
            most_confident = max(masked, key=lambda c: (conf[c], -c))
            seen.accepted, seen.refused = seen.accepted + len(accepted), seen.refused + len(masked) - len(accepted)
            for c in {*accepted, most_confident}:
                x[c] = token[c]
            if eotp:
                first = [c for c in accepted if token[c] == eot]
                hints = [c for c in range(start, len(x)) if x[c] == mask and token[c] == eot]
                if first:
                    seen.accepted_eot += 1
                    del x[min(first) + 1 :]
                elif hints:
                    c = max(hints, key=lambda c: (conf[c], -c))
                    seen.hinted_ahead += c not in block
                    seen.hinted_here += c in block
                    del x[c + 1 :]
        start += BLOCK
    seen.output_ids = x[len(prompt) :]
    return seen


@pytest.mark.parametrize("eot", ["decode", "predict"])
@pytest.mark.parametrize("kind", ["mini", "random"])
def test_equals_the_slow_reading(kind: str, eot: str, mini: MiniHost, mini_prompts: Prompts, tmp_path: Path) -> None:
    """With random filters, tokens and forwards are those of the pseudocode, whatever tau, length and EoT policy."""
    host = mini if kind == "mini" else random_host()
    card = make_card(host, BLOCK)
    readings = []
    for seed, (tau, gen) in enumerate([(0.96, 64), (0.8, 64), (0.96, 96), (0.8, 96)]):
        net = random_filter(card, seed, middle=0.8 if kind == "mini" else 0.5)
        strategy = Learn2PD(tau=tau, filter=str(write_filter(tmp_path / f"{seed}.safetensors", card, net)))
        settings = DecodeSettings(gen, BLOCK, eot=eot)
        for prompt in mini_prompts(1 if eot == "decode" else 6, seed):
            (sample,) = decode(host, strategy, [prompt], [0], settings).samples
            with torch.inference_mode():
                wanted = slow_learn2pd(host, net, prompt, gen, tau, eotp=eot == "predict")
            readings.append(wanted)

            assert sample.output_ids == wanted.output_ids
            assert sample.nfe_full == sample.nfe_auxiliary == wanted.nfe
            assert sample.nfe_window == sample.forced_commits == 0
    cuts = ["accepted_eot", "hinted_here", "hinted_ahead"]
    for what in ["accepted", "refused", *cuts]:  # the filters were neither all yes nor all no, and every rule took part
        assert bool(sum(getattr(reading, what) for reading in readings)) == (eot == "predict" or what not in cuts)


# ------------------------------------------------------------------ the rule


def test_eot_prediction_pads_with_zeros(tmp_path: Path) -> None:
    """A block that EoT prediction has shortened is fed to the filter with zeros in the place of what is gone."""
    host, fed = random_host(), []
    card = make_card(host, BLOCK)
    path = write_filter(tmp_path / "f.safetensors", card, random_filter(card, 0, middle=0.5))
    stored = read_filter(path)
    net = stored.build()
    net.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].clone()))
    strategy = Learn2PD(filter=str(path))
    prompt = host.encode("Ann has 3 apples.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_file.StoredFilter, "build", lambda _: net)
        (sample,) = decode(host, strategy, [prompt], [0], DecodeSettings(64, BLOCK, eot="predict")).samples

    shortened = [x for x in fed if (x == 0).any()]
    assert sample.cut_tokens > 0 and shortened
    for x in shortened:
        length = int((x[0] > 0).sum())
        assert x.shape == (1, BLOCK) and (x[0, :length] > 0).all() and not x[0, length:].any()


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_ends_of_tau(tau: float, tmp_path: Path) -> None:
    """At 0 everything is accepted, a block in one forward; at 1 nothing is, and one position is filled per forward."""
    host = random_host()
    card = make_card(host, BLOCK)
    path = write_filter(tmp_path / "f.safetensors", card, Filter(BLOCK))
    (sample,) = decode(
        host, Learn2PD(tau=tau, filter=str(path)), [host.encode("Ann")], [0], DecodeSettings(64, BLOCK)
    ).samples

    assert sample.nfe_full == (64 if tau else 2)


@pytest.mark.parametrize("inputs", [(), ("mask",), ("step",), ("mask", "step")], ids="+".join)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_network(depth: int, inputs: tuple[str, ...]) -> None:
    """Layers on confidences, then mask flags, then step / block length; 2,112 parameters are the paper's filter."""
    net = Filter(BLOCK, depth, inputs)
    draws = torch.Generator().manual_seed(depth)
    confidence, candidates = torch.rand(3, BLOCK, generator=draws), torch.rand(3, BLOCK, generator=draws) < 0.5
    with torch.inference_mode():
        got = net(confidence, candidates, 5).sigmoid()
        each = net(confidence, candidates, torch.tensor([5, 5, 5])).sigmoid()
    for row in range(3):
        fed = confidence[row].tolist()
        fed += candidates[row].float().tolist() if "mask" in inputs else []
        fed += [5 / BLOCK] if "step" in inputs else []

        assert got[row].tolist() == pytest.approx(slow_filter(net, fed), abs=1e-6)
    assert torch.equal(got, each)
    if (depth, inputs) == (2, ()):
        assert sum(p.numel() for p in net.parameters()) == 2112


# ------------------------------------------------------------------ files


def test_a_file_comes_back(mini: MiniHost, tmp_path: Path) -> None:
    """Reading a filter file gives the card and the weights that were written, also after the file was changed.

    A run goes on with the filter that its records name.
    """
    card = make_card(mini, BLOCK, depth=4, inputs=("mask", "step"), data={"prompts": 3}, metrics={"auc": None})
    nets = [random_filter(card, seed, middle=0.8) for seed in range(2)]
    path = tmp_path / "f.safetensors"
    for net in nets:
        stored = read_filter(write_filter(path, card, net))

        assert stored.card == card
        assert all(torch.equal(w, stored.build().state_dict()[name]) for name, w in nets[0].state_dict().items())
    assert not torch.equal(nets[0].layers[0].weight, nets[1].layers[0].weight)


def damaged(kind: str, data: bytes) -> bytes:
    """A filter file's bytes with one thing wrong."""
    size = struct.unpack("<Q", data[:8])[0]
    header, weights = json.loads(data[8 : 8 + size]), data[8 + size :]
    card = json.loads(header["__metadata__"]["card"])
    match kind:
        case "cut short":
            return data[:-100]
        case "no safetensors":
            return b"PK" + data
        case "weights nan":
            weights = b"\xff" * len(weights)
        case "field missing":
            del card["weights_hash"]
        case "no card":
            card = {}
        case _:
            card |= CHANGES[kind]
    header["__metadata__"] = {"card": json.dumps(card)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


CHANGES: dict[str, dict[str, object]] = {
    "other format": {"format": "2"}, "field unknown": {"colour": "red"}, "wrong type": {"block_length": "32"},
    "true is no number": {"depth": True}, "tau nan": {"tau": math.nan}, "depth 3": {"depth": 3},
    "depth 1": {"depth": 1}, "input unknown": {"inputs": ["mask", "logits"]},
}  # fmt: skip
DAMAGES = {
    "cut short": "is no filter", "no safetensors": "is no filter", "no card": "has no card",
    "weights nan": "not finite", "field missing": "weights_hash", "other format": "has no card",
    "field unknown": "colour", "depth 1": "tensors",
    "wrong type": "block_length is '32'", "true is no number": "depth is True", "tau nan": "tau is nan",
    "depth 3": "depth is 3", "input unknown": "inputs is ['mask', 'logits']",
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_refused(kind: str, mini: MiniHost, tmp_path: Path) -> None:
    """Whatever is wrong with a filter file is said, with the file's name and how filters are made."""
    path = tmp_path / "f.safetensors"
    path.write_bytes(damaged(kind, dump_filter(Filter(BLOCK), make_card(mini, BLOCK))))
    with pytest.raises(UsageError) as refused:
        read_filter(path)

    shown = str(refused.value)
    assert (
        str(path) in shown and DAMAGES[kind] in shown and "expected a file made by 'l2pd-bench filter train'" in shown
    )


MISMATCHES: dict[str, tuple[dict[str, str], int, list[str]]] = {
    "block": ({}, 16, ["for block-length 32, got block-length 16", "--block-length 32"]),
    "host": ({"host": "other", "weights_hash": "f00"}, BLOCK, ["for model 'other' (weights f00), got model 'mini'"]),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_a_filter_of_another_setting_is_refused(kind: str, mini: MiniHost, tmp_path: Path) -> None:
    """A filter for another model or block length is an error that names both and says how to make one that fits."""
    changes, block_length, wanted = MISMATCHES[kind]
    path = write_filter(tmp_path / "f.safetensors", replace(make_card(mini, BLOCK), **changes), Filter(BLOCK))
    with pytest.raises(UsageError) as refused:
        decode(mini, Learn2PD(filter=str(path)), [[5]], [0], DecodeSettings(32, block_length))

    shown = str(refused.value)
    assert all(part in shown for part in [str(path), *wanted, "filter collect --model mini", "filter train"]), shown


def test_missing_files_are_refused(mini: MiniHost, analytic: AnalyticHost) -> None:
    """A file that is not there, and a model that no filter is shipped for, are errors that say what to do."""
    with pytest.raises(UsageError, match=r"'nowhere.safetensors' cannot be read \(No such file or directory\)"):
        decode(mini, Learn2PD(filter="nowhere.safetensors"), [[5]], [0], DecodeSettings(32, 32))
    with pytest.raises(UsageError, match=r"none is shipped for model 'analytic'.*filter collect --model analytic"):
        decode(analytic, Learn2PD(), [[5]], [0], DecodeSettings(32, 32))


def test_another_filter_is_another_strategy(mini: MiniHost, tmp_path: Path) -> None:
    """The code hash of a run's record follows the content of the filter's file, given or shipped."""
    card = make_card(mini, BLOCK)
    hashes = {load_strategy("learn2pd")[1].code_hash}
    for number, seed in enumerate((0, 1, 0)):
        path = tmp_path / f"{number}.safetensors"
        write_filter(path, card, random_filter(card, seed, middle=0.8))
        hashes.add(load_strategy(f"learn2pd:filter={path}")[1].code_hash)

    assert len(hashes) == 3


@pytest.mark.parametrize("tau", ["nan", "1.5", "-0.1"])
def test_tau_is_a_probability(tau: str) -> None:
    """A tau that is none is refused with what it should be, also where the command line is not involved."""
    with pytest.raises(UsageError, match=f"tau: got '?{tau}'?, expected a (finite number|probability)"):
        load_strategy(f"learn2pd:tau={tau}")
    with pytest.raises(ValueError, match="expected a probability in"):
        Learn2PD(tau=float(tau))
