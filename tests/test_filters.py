"""Collections of records for filters: what is in them, and that they survive interruption and sharing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filter_factory import call
from rich.console import Console
from safetensors.torch import load_file, save_file

from l2pd_bench import filters
from l2pd_bench.errors import BenchError, RecordError, UsageError
from l2pd_bench.filter_records import MANIFEST, Records, part_path, read_collection, read_manifest
from l2pd_bench.filters import CollectOptions, collect
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.tasks.mini import in_test_pool

QUIET = Console(quiet=True)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def options(tmp_path: Path) -> CollectOptions:
    """Ten prompts of the host with exact marginals, in five batches."""
    file = tmp_path / "prompts.jsonl"
    prompts = [f"shuffle {' '.join(LETTERS[i : i + 5])}" for i in range(10)]
    file.write_text("".join(json.dumps({"prompt": p, "other": 1}) + "\n" for p in [*prompts, *prompts[:3]]))
    return CollectOptions(
        output=tmp_path / "all", prompts=file, model="analytic", gen_length=16, block_length=8, batch_size=2
    )


def parts(folder: Path) -> dict[str, bytes]:
    """The parts of a collection by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


# ------------------------------------------------------------------ what is recorded


def slow_replay(
    host: MiniHost, prompt: list[int], gen: int, block: int
) -> list[tuple[int, int, list[float], list[int]]]:
    """Records of one prompt by the definition: block, step, confidences, and 2 x label + candidate per position."""
    mask = host.mask_id

    def predict(x: list[int], start: int) -> tuple[list[int], list[float]]:
        logits = host.model(torch.tensor([x]))[0, start : start + block].float()
        logits[:, mask] = -torch.inf
        top = logits.softmax(-1).max(-1)
        return top.indices.tolist(), top.values.tolist()

    reference = [*prompt, *[mask] * gen]
    for start in range(len(prompt), len(reference), block):
        while mask in reference[start : start + block]:
            tokens, sure = predict(reference, start)
            i = max((i for i in range(block) if reference[start + i] == mask), key=lambda i: (sure[i], -i))
            reference[start + i] = tokens[i]
    x, records = [*prompt, *[mask] * gen], []
    for start in range(len(prompt), len(x), block):
        step = 0
        while mask in x[start : start + block]:
            tokens, sure = predict(x, start)
            right = [tokens[i] == reference[start + i] for i in range(block)]
            open_ = [x[start + i] == mask for i in range(block)]
            records.append(
                ((start - len(prompt)) // block, step, sure, [2 * right[i] + open_[i] for i in range(block)])
            )
            chosen = [i for i in range(block) if right[i] and open_[i]] or [i for i in range(block) if open_[i]]
            for i in chosen:
                x[start + i] = reference[start + i]
            step += 1
    return records


def test_records_are_those_of_an_independent_replay(
    mini: MiniHost, mini_prompts: Callable[[int, int], list[list[int]]]
) -> None:
    """Confidences, labels and candidates of a batch are those of one prompt after the other, replayed by definition."""
    prompts = mini_prompts(4, 5)
    options = CollectOptions(output=Path(), task=("mini-math",), gen_length=64, block_length=32)
    got = filters._record(mini, prompts, 7, options)
    with torch.inference_mode():
        wanted = [(7 + i, *r) for i, prompt in enumerate(prompts) for r in slow_replay(mini, prompt, 64, 32)]

    flags = (2 * got.label + got.candidates.long()).tolist()
    keys = [*zip(got.prompt.tolist(), got.block.tolist(), got.step.tolist(), flags, strict=True)]
    assert keys == [(p, b, s, f) for p, b, s, _, f in wanted]
    torch.testing.assert_close(got.confidence, torch.tensor([sure for *_, sure, _ in wanted]), atol=1e-5, rtol=0)
    assert {x for row in flags for x in row} == {0, 1, 2, 3}


# ------------------------------------------------------------------ folders


def test_each_prompt_once(options: CollectOptions) -> None:
    """Equal prompts are collected once; every part holds its own, and every one has records of every block."""
    assert collect(options, console=QUIET).exit_code == 0
    collection = read_collection(options.output)

    assert collection.manifest.prompts == 10 and collection.manifest.parts == 5
    assert collection.records.prompt.unique().tolist() == list(range(10))
    assert {*zip(collection.records.prompt.tolist(), collection.records.block.tolist(), strict=True)} == {
        (prompt, block) for prompt in range(10) for block in range(2)
    }


def test_resumed_and_sharded_equal_undisturbed(options: CollectOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that was interrupted, or made by three processes, is that of one, byte for byte."""
    collect(options, console=QUIET)
    whole = parts(options.output)

    resumed, record, calls = replace(options, output=options.output.with_name("resumed")), filters._record, []

    def interrupted(*args: object) -> Records:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return record(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(filters, "_record", interrupted)
    outcome = collect(resumed, console=QUIET)
    assert outcome.exit_code == 130 and outcome.message == f"interrupted; to continue: {resumed.command()}"
    assert len(parts(resumed.output)) == 2
    assert collect(resumed, console=QUIET).exit_code == 0
    assert len(calls) == 3 + 3  # what was there was not made again
    assert parts(resumed.output) == whole

    sharded = replace(options, output=options.output.with_name("sharded"))
    for shard, there in (("2/3", 2), ("3/3", 3), ("1/3", 5)):
        outcome = collect(sharded, shard, console=QUIET)
        assert outcome.message.endswith(f": {there} of 5 parts of 10 prompts")
    assert parts(sharded.output) == whole


CHANGES = {"gen_length": 24, "block_length": 16, "batch_size": 5, "limit": 3, "seed": 1, "eot": "stop"}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused(name: str, options: CollectOptions) -> None:
    """A folder that holds a collection with other settings is refused, with the setting and both its values."""
    collect(options, console=QUIET)
    before = parts(options.output)
    other = replace(options, **{name: CHANGES[name]})
    with pytest.raises(UsageError) as refused:
        collect(other, console=QUIET)

    assert f"has {name} {getattr(options, name)!r}, got {CHANGES[name]!r}" in str(refused.value)
    assert parts(options.output) == before


def test_reference_up_to_its_eot(options: CollectOptions) -> None:
    """With `--eot stop` the reference ends at its EoT; where only EoT follows, as here, the records are the same."""
    collect(options, console=QUIET)
    stopped = replace(options, output=options.output.with_name("stopped"), eot="stop")
    collect(stopped, console=QUIET)

    for whole, part in zip(*(read_collection(o.output).records for o in (options, stopped)), strict=True):
        assert torch.equal(whole, part)


def test_other_prompts_are_refused(options: CollectOptions) -> None:
    """A file of prompts that has changed since is refused."""
    collect(options, console=QUIET)
    assert options.prompts is not None
    options.prompts.write_text('{"prompt": "copy a b"}\n')
    with pytest.raises(UsageError, match=r"has sources prompts.jsonl \(10 prompts\), got prompts.jsonl \(1 prompts\)"):
        collect(options, console=QUIET)


def test_part_of_a_collection_is_refused(options: CollectOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection with parts missing is refused with the command that continues it, and that command does."""
    collect(options, "1/2", console=QUIET)
    with pytest.raises(UsageError) as refused:
        read_collection(options.output)

    command = options.command()
    assert str(refused.value) == f"collection: '{options.output}' has 3 of 5 parts; continue it: {command}"
    assert call(monkeypatch, *command.split()[2:]) == 0
    assert len(read_collection(options.output).records.step) > 0


def cut_short(path: Path) -> None:
    """As a full disk might leave it."""
    path.write_bytes(path.read_bytes()[:-10])


def of_another_collection(path: Path) -> None:
    """The same records, said to be of others."""
    save_file(load_file(path), path, {"collection": "0"})


def of_another_shape(path: Path) -> None:
    """A block that is one position too short."""
    identity = read_manifest(path.parent).identity
    tensors = load_file(path)
    save_file(tensors | {"label": tensors["label"][:, 1:].contiguous()}, path, {"collection": identity})


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (cut_short, "cannot be read"),
    "other collection": (of_another_collection, "is of another collection"),
    "other shape": (of_another_shape, "label is torch.bool"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_part_is_refused(kind: str, options: CollectOptions) -> None:
    """A part that cannot be used is named, with what is wrong and how it is made again."""
    collect(options, console=QUIET)
    path = part_path(options.output, 3)
    damage, said = BROKEN[kind]
    damage(path)
    with pytest.raises(RecordError) as refused:
        read_collection(options.output)

    assert str(path) in str(refused.value) and said in str(refused.value)
    assert f"delete it, and continue the collection: {options.command()}" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"), [(None, "'l2pd-bench filter collect' makes one"), ("", ""), ("{}", "format")]
)
def test_no_collection_is_refused(text: str | None, said: str, options: CollectOptions) -> None:
    """A folder whose manifest is missing or damaged is no collection, which is said."""
    collect(options, console=QUIET)
    path = options.output / MANIFEST
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(BenchError, match=f"{MANIFEST}.*{said}"):
        read_collection(options.output)


# ------------------------------------------------------------------ prompts


def test_mini_tasks_give_training_items(tmp_path: Path) -> None:
    """Prompts of a task with a generator are drawn from its training pool: no test prompt is among them."""
    drawn = filters._draw(CollectOptions(output=tmp_path, task=("mini-math", "mini-list"), limit=40), True, QUIET)
    again = filters._draw(CollectOptions(output=tmp_path, task=("mini-list",), limit=20, seed=1), True, QUIET)

    assert [(s.name, s.kind, s.prompts) for s, _ in drawn] == [
        (n, "training pool", 40) for n in ("mini-math", "mini-list")
    ]
    assert not any(in_test_pool(prompt.text) for _, prompts in drawn for prompt in prompts)
    assert again[0][1] != drawn[1][1][:20]


def test_test_items_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a task has nothing but test items, they are taken and that is said."""
    options = CollectOptions(output=tmp_path, task=("analytic-copy",), limit=3)
    drawn = filters._draw(options, False, Console(stderr=True, width=200))

    assert [(s.kind, s.prompts) for s, _ in drawn] == [("test set", 3)]
    assert "analytic-copy has test items only: do not judge a filter trained on them" in capsys.readouterr().err


WRONG = [
    ([], ["prompts: got none", "--task NAME or --prompts FILE.jsonl"]),
    (["--task", "mini-mth"], ["'mini-mth'", "did you mean 'mini-math'"]),
    (["--task", "mini-math", "--task", "mini-math"], ["'mini-math' twice"]),
    (["--task", "mini-math", "--limit", "0"], ["limit: got 0"]),
    (["--task", "mini-math", "--gen-length", "100"], ["100", "96 or 128"]),
    (["--task", "mini-math", "--eot", "stopp"], ["eot: got 'stopp'", "decode, stop", "did you mean 'stop'"]),
    (["--task", "mini-math", "--shard", "3/2"], ["shard: got '3/2'", "I/N"]),
    (["--prompts", "nowhere.jsonl"], ["'nowhere.jsonl' cannot be read"]),
    (["--prompts", "@no json"], ["line 1", "'no json'", 'an object with a "prompt"']),
    (["--prompts", '@{"prompt": 3}'], ["line 1", "the prompt 3"]),
    (["--prompts", "@"], ["is empty"]),
]


@pytest.mark.parametrize(("words", "wanted"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_wrong_use(
    words: list[str],
    wanted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A wrong request ends with exit code 2, one line that says what was got and allowed, and no collection."""
    if words and words[-1].startswith("@"):
        file = tmp_path / "prompts.jsonl"
        file.write_text(words[-1][1:])
        words = [*words[:-1], str(file)]
    code = call(monkeypatch, "collect", *words, "--output", tmp_path / "out")

    shown = capsys.readouterr().err
    assert code == 2
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert all(part in shown for part in wanted), shown
    assert not (tmp_path / "out").exists()
