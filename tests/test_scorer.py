"""Autoregressive scorers give the logits of a plain forward, whatever they keep of earlier ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny_lm import save
from tokenizers import Tokenizer
from torch import Tensor

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts.analytic import AnalyticHost
from l2pd_bench.hosts.base import CausalModel, CausalSession, HostRequest
from l2pd_bench.hosts.mini import COMPANION, MiniHost, MiniTokenizer, load, read_model
from l2pd_bench.scorer import SampleScorer, load_scorer
from l2pd_bench.strategies.base import StepView

PADDING, PROMPT, N, LENGTH = [0, 5, 2], 9, 6, 9 + 3 * 6  # three rows, three blocks
SPARE = 23  # ids of a Hugging Face model that no token has


class Case(NamedTuple):
    """A scorer's model, and its plain forward over one bare row: (T,) to (T, V)."""

    model: CausalModel
    plain: Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def companion(mini: MiniHost) -> Case:
    """The companion of `mini`."""
    path = Path(__file__).parents[1] / "bench" / "hosts" / COMPANION
    network = read_model(path, device=torch.device("cpu"), dtype=torch.float32)
    return Case(load_scorer(None, mini), lambda ids: network(ids[None])[0])


@pytest.fixture(scope="module", params=["companion", "Qwen2", "Llama", "GPT2"])
def case(
    request: pytest.FixtureRequest, companion: Case, mini: MiniHost, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """The companion, and Hugging Face models with the tokenizer of `mini` and some logits to spare."""
    if request.param == "companion":
        return companion
    folder = save(tmp_path_factory.mktemp("model"), request.param, mini.tokenizer.raw, mini.vocab_size + SPARE)
    network = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(folder).eval()
    return Case(
        load_scorer(str(folder), mini), lambda ids: network(input_ids=ids[None]).logits[0, :, : mini.vocab_size]
    )


def view_of(canvas: Tensor, start: int, step: int = 0) -> StepView:
    """What a scorer looks at in a view: canvas and place."""
    none = torch.empty(0)
    return StepView(none, none, none, none, canvas, start, step, lambda: none)


class Scorers:
    """A scorer for each of some rows, asked one after the other."""

    def __init__(
        self, model: CausalModel, padding: Sequence[int], count: Callable[[int], None] = lambda flops: None
    ) -> None:
        self.each = [SampleScorer(model, pad, LENGTH, count) for pad in padding]

    def score(self, view: StepView, tokens: Tensor, rows: Sequence[int] = (0, 1, 2)) -> Tensor:
        """What the scorers of `rows` say."""
        canvases = view.canvas.split(1)
        parts = [
            self.each[row].score(view_of(canvas, view.start), block)
            for row, canvas, block in zip(rows, canvases, tokens.split(1), strict=True)
        ]
        return torch.cat(parts)


def canvas_of(mini: MiniHost, seed: int = 0) -> Tensor:
    """Three rows of arbitrary tokens, -1 in the padding."""
    ids = torch.randint(2, mini.vocab_size, (len(PADDING), LENGTH), generator=torch.Generator().manual_seed(seed))
    for row, pad in enumerate(PADDING):
        ids[row, :pad] = -1
    return ids


def expected(case: Case, canvas: Tensor, tokens: Tensor, start: int, rows: Sequence[int], mask_id: int) -> Tensor:
    """Each row alone and bare, in one plain forward: the logits that predict the block."""
    logits = []
    for i, row in enumerate(rows):
        ids = torch.cat([canvas[i, PADDING[row] : start], tokens[i]])
        with torch.inference_mode():
            plain = case.plain(ids).index_fill(-1, torch.tensor(mask_id), -math.inf)
        logits.append(plain[start - PADDING[row] - 1 : -1])
    return torch.stack(logits)


def assert_close(got: Tensor, wanted: Tensor) -> None:
    """Equal to float32 rounding: 1e-5 of the largest logit; -inf at the same places."""
    finite = wanted.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert float((got - wanted)[finite].abs().max()) <= 1e-5 * float(wanted[finite].abs().max())


def test_batches_over_several_blocks_equal_plain_forwards(case: Case, mini: MiniHost) -> None:
    """Padded rows, three blocks, four drafts each, a row dropped after each block: every logit is a plain forward's."""
    canvas, rows = canvas_of(mini), [0, 1, 2]
    scorer = Scorers(case.model, PADDING)
    for block, start in enumerate(range(PROMPT, LENGTH, N)):
        for step in range(4):
            seen, tokens = canvas.clone(), canvas_of(mini, 10 * block + step + 1)[: len(rows), -N:]
            seen[:, start:] = 0  # masks
            with torch.inference_mode():
                got = scorer.score(view_of(seen, start, step), tokens, rows)

            assert got.dtype == torch.float32
            assert got.shape == (len(rows), N, mini.vocab_size)
            assert_close(got, expected(case, canvas, tokens, start, rows, mini.mask_id))
        kept = [i for i in range(len(rows)) if i != (1, 0, 0)[block]]
        canvas, rows = canvas[kept], [rows[i] for i in kept]


@pytest.mark.parametrize("moves", [[(9, 18), (10, 17), (14, 13), (26, 1)], [(9, 3), (9, 5), (12, 2), (25, 2)]])
def test_a_frontier_may_move_by_any_amount(case: Case, mini: MiniHost, moves: list[tuple[int, int]]) -> None:
    """A block that moves right by any number of columns, with any length, is scored as by a plain forward."""
    canvas = canvas_of(mini)
    scorer = Scorers(case.model, PADDING)
    for i, (start, length) in enumerate(moves):
        tokens = canvas_of(mini, i + 1)[:, -length:]
        seen = canvas.clone()
        seen[:, start:] = 0
        with torch.inference_mode():
            got = scorer.score(view_of(seen, start), tokens)

        assert_close(got, expected(case, canvas, tokens, start, (0, 1, 2), mini.mask_id))


def test_columns_that_were_cut_off_matter_to_nothing(case: Case, mini: MiniHost) -> None:
    """-1 at a block's end, and a canvas that ends before the block does, change no logit up to there."""
    canvas, tokens = canvas_of(mini), canvas_of(mini, 1)[:, -N:]
    ended = tokens.clone()
    ended[:, 4:] = -1
    whole, cut = (Scorers(case.model, PADDING) for _ in range(2))
    with torch.inference_mode():
        wanted = whole.score(view_of(canvas, PROMPT), tokens)
        got = cut.score(view_of(canvas[:, : PROMPT + 4], PROMPT), ended)

    assert torch.equal(got[:, :5], wanted[:, :5])
    assert not got.isnan().any()


class Spy:
    """A session that notes what it is fed."""

    def __init__(self, inner: CausalSession) -> None:
        self.inner = inner
        self.fed: list[tuple[int, int]] = []

    def forward(self, ids: Tensor, start: int, columns: slice) -> Tensor:
        """Note the window."""
        self.fed.append((start, start + ids.shape[1]))
        return self.inner.forward(ids, start, columns)


def test_nothing_final_is_read_twice(companion: Case, mini: MiniHost) -> None:
    """The prompt is fed once; a step feeds as many columns as the block has, a new block also the last block's."""
    spies: list[Spy] = []

    def spied(padding: Sequence[int], length: int) -> CausalSession:
        spies.append(Spy(companion.model.open(padding, length)))
        return spies[-1]

    counted: list[int] = []
    model = CausalModel("spied", mini.mask_id, spied, companion.model.flops)
    scorer = SampleScorer(model, PADDING[1], LENGTH, counted.append)
    canvas = canvas_of(mini)[1:2]
    for start in (9, 9, 9, 15, 15, 21):
        scorer.score(view_of(canvas, start), canvas[:, start : start + N])

    assert spies[0].fed == [(0, 14), (8, 14), (8, 14), (9, 20), (14, 20), (15, 26)]
    pad = PADDING[1]
    assert counted == [model.flops(stop - max(start, pad), stop - pad, N) for start, stop in spies[0].fed]


def test_dtype_follows_the_host() -> None:
    """A scorer computes in its host's dtype, and its logits are float32 all the same."""
    host = load(HostRequest("mini", device="cpu", dtype="bfloat16"))
    scorer = SampleScorer(load_scorer(None, host), 0, 20, lambda flops: None)
    with torch.inference_mode():
        logits = scorer.score(view_of(torch.full((1, 20), 7), 10), torch.full((1, 5), 8))

    assert logits.dtype == torch.float32
    kept = logits[logits.isfinite()]
    assert torch.equal(kept, kept.bfloat16().float())


def joint(kind: str, letters: list[int]) -> dict[tuple[int, ...], float]:
    """Every answer of an analytic prompt with its probability."""
    if kind == "copy":
        return {tuple(letters): 1.0}
    if kind == "shuffle":
        orders = list(itertools.permutations(letters))
        return dict.fromkeys(orders, 1 / len(orders))
    new, *line = letters
    return {(*line[:i], new, *line[i + 1 :]): 1 / len(line) for i in range(len(line))}


@pytest.mark.parametrize("kind", ["copy", "shuffle", "replace"])
def test_analytic_companion_knows_the_joint(kind: str, analytic: AnalyticHost) -> None:
    """After every possible prefix, the next token's probabilities are the enumerated joint's; then EoT follows."""
    prompt = analytic.encode(f"{kind} d a c b")
    answers = joint(kind, prompt[1:-1])
    n = len(next(iter(answers)))
    scorer = SampleScorer(analytic.companion(), 2, 2 + len(prompt) + n + 2, lambda flops: None)
    for answer in answers:
        block = torch.tensor([[*answer, analytic.eot_id, analytic.eot_id]])
        canvas = torch.tensor([[-1, -1, *prompt, *[analytic.mask_id] * (n + 2)]])
        logits = scorer.score(view_of(canvas, 2 + len(prompt)), block)
        for i in range(n + 2):
            wanted = torch.zeros(analytic.vocab_size, dtype=torch.float64)
            alike = {other: p for other, p in answers.items() if other[:i] == answer[:i]}
            for other, p in alike.items():
                wanted[other[i] if i < n else analytic.eot_id] += p / sum(alike.values())

            torch.testing.assert_close(logits[0, i].double().softmax(-1), wanted, atol=1e-6, rtol=0)


def test_a_host_with_a_tokenizer_of_its_own_has_no_companion(mini: MiniHost) -> None:
    """The shipped companion only speaks for hosts with the shipped tokenizer."""
    raw = Tokenizer.from_str(mini.tokenizer.raw.to_str())
    raw.add_tokens(["<|more|>"])
    other = MiniHost("other", mini.model, MiniTokenizer(raw), "")

    with pytest.raises(UsageError, match="scorer: model 'other' has a tokenizer of its own"):
        load_scorer(None, other)


def test_an_empty_prompt_is_refused(companion: Case, mini: MiniHost) -> None:
    """With nothing on its left the first token has no logits: an error that says so."""
    scorer = SampleScorer(companion.model, 9, LENGTH, lambda flops: None)

    with pytest.raises(UsageError, match="scorer: got an empty prompt"):
        scorer.score(view_of(torch.full((1, LENGTH), 7), 9), torch.full((1, N), 7))
