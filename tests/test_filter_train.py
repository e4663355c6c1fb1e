"""Training a filter, and its figures against counts by hand."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from filter_factory import call, make_card, write_filter
from rich.console import Console
from safetensors import safe_open

from l2pd_bench import filter_train
from l2pd_bench.errors import UsageError
from l2pd_bench.filter_metrics import ALL, CANDIDATES, evaluate_filter, judge, own_threshold, roc_auc
from l2pd_bench.filter_records import Records
from l2pd_bench.filter_train import Split, TrainOptions, evaluate, fit, split_by_prompt, train_filter
from l2pd_bench.filters import CollectOptions, collect
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.mini import MiniHost
from l2pd_bench.strategies.filter_file import Filter, read_filter
from l2pd_bench.strategies.learn2pd import Learn2PD

N = 8  # positions of a block here


def make_records(prompts: int = 40, seed: int = 0) -> Records:
    """Five made-up records of every prompt; a prediction is final if its neighbour is confident, mostly."""
    draws = torch.Generator().manual_seed(seed)
    rows = 5 * prompts
    confidence = torch.rand(rows, N, generator=draws)
    likely = (0.3 * confidence + 0.7 * confidence.roll(1, 1)) ** 2
    label = torch.rand(rows, N, generator=draws) < likely
    candidates = torch.rand(rows, N, generator=draws) < 0.6
    steps = torch.arange(5).repeat(prompts)
    return Records(confidence, label, candidates, steps, steps // 3, torch.arange(prompts).repeat_interleave(5))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Records of twelve prompts of the host with exact marginals, in blocks of 8."""
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": f"shuffle {' '.join('abcdefghijklmnop'[i : i + 5])}"} for i in range(12)]
    file.write_text("\n".join(map(json.dumps, lines)))
    folder = tmp_path / "collection"
    options = CollectOptions(output=folder, prompts=file, model="analytic", gen_length=16, block_length=N)
    collect(options, console=Console(quiet=True))
    return folder


# ------------------------------------------------------------------ figures


@pytest.mark.parametrize("seed", range(4))
def test_roc_auc_is_the_share_of_pairs(seed: int) -> None:
    """ROC-AUC is the share of (right, wrong) pairs with the right one scored higher, ties as halves."""
    rng = random.Random(seed)
    score = [rng.choice([0.1, 0.2, 0.5, 0.9, rng.random()]) for _ in range(60)]
    label = [rng.random() < 0.7 for _ in score]
    pairs = [(a, b) for (a, x), (b, y) in itertools.product(zip(score, label, strict=True), repeat=2) if x and not y]

    assert roc_auc(torch.tensor(score), torch.tensor(label)) == pytest.approx(
        sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    )


def test_figures_are_counts() -> None:
    """Precision, recall, false positives and what is accepted are counted one by one; of nothing, a share is none."""
    records, net, tau = make_records(), Filter(N), 0.5
    got = evaluate_filter(net, records, tau)
    with torch.inference_mode():
        sure = net(records.confidence, records.candidates, records.step).sigmoid().tolist()
    for row in got.rows:
        places = [(r, i) for r in range(200) for i in range(N) if row.scope == ALL or records.candidates[r, i]]
        final_at, scores = [bool(records.label[p]) for p in places], [float(records.confidence[p]) for p in places]
        accepted = [score >= float(row.rule.split()[2]) for score in scores]
        if row.rule.startswith("filter"):
            accepted = [sure[r][i] > tau for r, i in places]
            as_many = sorted(scores)[-sum(accepted)]  # comes as a control, further down
        elif row.rule.endswith(" (as many)"):
            accepted = [score >= as_many for score in scores]
        told = [*zip(accepted, final_at, strict=True)]
        hits = told.count((True, True))
        taken, final = hits + told.count((True, False)), hits + told.count((False, True))

        assert (row.positions, row.accepted) == (len(told), taken / len(told))
        assert (row.precision, row.recall) == (hits / taken, hits / final)
        assert row.false_positive_rate == (taken - hits) / (len(told) - final)
    rules = ["filter > 0.5", "confidence >= 0.8", "confidence >= 0.85", "confidence >= 0.9"]
    for at, scope in ((0, CANDIDATES), (5, ALL)):
        assert {row.scope for row in got.rows[at : at + 5]} == {scope}
        assert [row.rule for row in got.rows[at : at + 4]] == rules
        assert got.rows[at + 4].rule.endswith(" (as many)") and got.rows[at + 4].accepted == got.rows[at].accepted
    assert (got.records, got.prompts) == (200, 40)
    nothing = judge("", "", torch.ones(3), torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    assert (nothing.precision, nothing.recall, nothing.false_positive_rate, nothing.auc) == (None, 0.0, None, None)


def test_own_threshold() -> None:
    """A diagonal filter's own threshold is where its line crosses tau; a position below it at 1 is never accepted."""
    net = Filter(N, depth=1)
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.eye(N) * 10)
        net.layers[0].bias.fill_(-7.0)
        net.layers[0].bias[0] = -20.0
    every = make_records()._replace(candidates=torch.ones(200, N, dtype=torch.bool))
    own = own_threshold(net, every, 0.5)  # 10 c - 7 > 0

    assert own.candidates == 200 * N and own.never == 1 / N
    assert own.p10 == own.median == own.p90 == pytest.approx(0.71)  # the first point of the grid above 0.7


# ------------------------------------------------------------------ training


def test_split_is_by_prompt() -> None:
    """No prompt is on two sides, none is lost, a tenth each is for validation and test, and the seed decides."""
    records = make_records(43)
    split = split_by_prompt(records, 43, seed=0)
    prompts = [set(part.prompt.tolist()) for part in split]

    assert [len(p) for p in prompts] == [35, 4, 4]
    assert len(set.union(*prompts)) == 43
    assert [len(part.step) for part in split] == [5 * len(p) for p in prompts]
    assert prompts == [set(part.prompt.tolist()) for part in split_by_prompt(records, 43, seed=0)]
    assert prompts != [set(part.prompt.tolist()) for part in split_by_prompt(records, 43, seed=1)]
    with pytest.raises(UsageError, match="got 9 prompts, expected at least 10"):
        split_by_prompt(make_records(9), 9, seed=0)


def test_it_learns_and_stops() -> None:
    """Training beats plain confidence, ends when the validation loss does, and keeps the weights that had the least."""
    split = split_by_prompt(make_records(100), 100, seed=0)
    options = TrainOptions(iterations=2000, patience=50, learning_rate=0.02)
    net, iteration, loss = fit(split, N, options)
    rows = evaluate_filter(net, split.test, 0.5).rows

    assert 0 < iteration < 2000 and iteration % filter_train.CHECK_EVERY == 0
    with torch.no_grad():
        assert float(filter_train._loss(net, split.validation, options)) == loss
    own, plain = (next(r.auc or 0 for r in rows if r.scope == ALL and r.rule.startswith(n)) for n in ("filter", "conf"))
    assert own > plain + 0.05
    again = fit(split, N, replace(options, iterations=iteration))
    assert again.iteration == iteration and again.validation_loss == loss  # the same way to the same weights


def test_masked_only_leaves_out_committed_positions() -> None:
    """With it, labels of committed positions change nothing; without, they do."""
    split = split_by_prompt(make_records(), 40, seed=0)
    other = Split(*(part._replace(label=part.label ^ ~part.candidates) for part in split))
    for masked_only in (True, False):
        options = TrainOptions(masked_only=masked_only, iterations=50)
        a, b = (fit(s, N, options).net.layers[0].weight for s in (split, other))

        assert torch.equal(a, b) == masked_only


def test_large_collections_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size of a batch an iteration takes records drawn by the seed; up to it, all of them."""
    split = split_by_prompt(make_records(), 40, seed=0)
    losses = {}
    for size in (64, 160, 1000):
        monkeypatch.setattr(filter_train, "BATCH", size)
        runs = [fit(split, N, TrainOptions(iterations=50)).validation_loss for _ in range(2)]
        assert runs[0] == runs[1]
        losses[size] = runs[0]

    assert len(split.train.step) == 160
    assert losses[64] != losses[160] == losses[1000]


def test_the_file_says_how_it_was_made(collection: Path, tmp_path: Path, analytic: AnalyticHost) -> None:
    """A filter's metadata names host, block, data, command, recipe, figures; the same command makes the same file."""
    options = TrainOptions(depth=4, inputs=("step", "mask"), masked_only=True, iterations=30, tau=0.7)
    path = tmp_path / "new" / "f.safetensors"
    trained = train_filter(collection, path, options)
    card = read_filter(path).card

    assert (card.host, card.weights_hash, card.block_length, card.gen_length) == (
        "analytic",
        analytic.weights_hash,
        N,
        16,
    )
    assert (card.depth, card.inputs, card.masked_only, card.tau) == (4, ("mask", "step"), True, 0.7)
    words = "--depth 4 --masked-only --inputs step,mask --tau 0.7 --iterations 30"
    assert card.command == f"l2pd-bench filter train {collection} -o {path} {words}"
    assert card.data["prompts"] == 12 and card.data["command"].startswith("l2pd-bench filter collect --prompts")  # type: ignore[attr-defined]
    assert card.recipe["iterations"] == 30 and card.recipe["seed"] == 0
    assert card.metrics["held out by prompt"] == trained.evaluation.as_json()
    with safe_open(path, "pt") as stored:
        assert json.loads(stored.metadata()["card"])["block_length"] == N
    before = path.read_bytes()
    train_filter(collection, path, options)
    assert path.read_bytes() == before


def test_evaluate(collection: Path, tmp_path: Path, analytic: AnalyticHost, mini: MiniHost) -> None:
    """A filter is measured at its own tau or another; one for another host or block is refused, its own data told."""
    path = tmp_path / "f.safetensors"
    train_filter(collection, path, TrainOptions(iterations=30, tau=0.5))
    own, warning = evaluate(path, collection)
    other, _ = evaluate(path, collection, tau=0.99)

    assert own.tau == 0.5 and other.tau == 0.99 and own.prompts == 12
    assert own.rows[0].accepted >= other.rows[0].accepted and own.rows[0].auc == other.rows[0].auc
    assert warning == "the filter was trained on these prompts (prompts.jsonl): it has seen most answers"
    for card, said in (
        (make_card(mini, N), "for model 'mini'.*got model 'analytic'"),
        (make_card(analytic, 16), "for block-length 16, got block-length 8"),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate(
                write_filter(tmp_path / f"{card.block_length}.safetensors", card, Filter(card.block_length)), collection
            )


# ------------------------------------------------------------------ commands


def test_commands(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train` writes a filter and shows its figures beside plain thresholds; `evaluate` shows them of a collection."""
    path = tmp_path / "f.safetensors"
    assert call(monkeypatch, "train", collection, "-o", path, "--iterations", 25) == 0
    shown = capsys.readouterr()
    assert f"written: {path}" in shown.out.replace("\n", "")
    assert all(f"confidence >= {c}" in shown.out for c in (0.8, 0.85, 0.9)) and "filter > 0.96" in shown.out
    assert call(monkeypatch, "evaluate", path, collection, "--tau", 0.5) == 0
    shown = capsys.readouterr()
    assert "filter > 0.5" in shown.out and "AUC" in shown.out
    assert shown.err.startswith("note: the filter was trained on these prompts")


WRONG = [
    (["--depth", "3"], ["depth: got 3", "1, 2, 4"]),
    (["--inputs", "mask,steps"], ["inputs: got 'steps'", "mask, step"]),
    (["--tau", "nan"], ["tau: got nan", "[0, 1]"]),
    (["--tau", "2"], ["tau: got 2", "[0, 1]"]),
    (["--iterations", "0"], ["iterations: got 0"]),
    (["--patience", "0"], ["patience: got 0"]),
    (["--learning-rate", "nan"], ["learning-rate: got nan"]),
    (["--seed", "-1"], ["seed: got -1"]),
]


@pytest.mark.parametrize(("words", "wanted"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_wrong_use(
    words: list[str],
    wanted: list[str],
    collection: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong request ends with exit code 2, one line that says what was got and allowed, and no filter."""
    path = collection / "f.safetensors"
    code = call(monkeypatch, "train", collection, "-o", path, *words)

    shown = capsys.readouterr().err
    assert code == 2
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert all(part in shown for part in wanted), shown
    assert not path.exists()


def test_evaluate_refuses_what_is_no_filter(
    collection: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no filter, and a tau that is no probability, end with exit code 2 and no traceback."""
    assert call(monkeypatch, "evaluate", collection / "collect.json", collection) == 2
    assert "collect.json' is no filter" in capsys.readouterr().err


# ------------------------------------------------------------------ what is shipped


def test_the_shipped_filter(mini: MiniHost) -> None:
    """The package's filter is the embedded model's, of the paper's shape, by the recipe as it stands in the code."""
    (path,) = files("l2pd_bench.strategies").joinpath("").glob("*.safetensors")  # type: ignore[attr-defined]
    card = read_filter(path).card
    defaults = TrainOptions()

    assert (card.weights_hash, card.block_length, card.tau) == (mini.weights_hash, 32, Learn2PD().tau)
    assert (card.depth, card.inputs, card.masked_only) == (defaults.depth, defaults.inputs, defaults.masked_only)
    for name in ("iterations", "patience", "learning_rate", "seed"):
        assert card.recipe[name] == getattr(defaults, name)
    sources = card.data["sources"]
    assert isinstance(sources, list)
    tasks = ["mini-math", "mini-code", "mini-list", "mini-line-random"]
    assert [(source["name"], source["kind"]) for source in sources] == [(task, "training pool") for task in tasks]
    words = [word for task in tasks for word in ("--task", task)]
    options = "--limit 320 --eot stop --output mini-work/filter"
    assert card.data["command"] == " ".join(["l2pd-bench filter collect", *words, options])
