"""What `l2pd-bench check` asks of a strategy: one function for every row of its table.

Decodes a few small canvases on hosts that need nothing; nothing is graded or written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import getsourcefile
from statistics import median
from time import perf_counter
from typing import Literal, cast

import torch

from l2pd_bench.attempts import PROMPTS, SETTINGS, Attempt, Attempts, line_of
from l2pd_bench.cache import POLICIES
from l2pd_bench.decoded import Decoded
from l2pd_bench.engine import STEP_CAP
from l2pd_bench.errors import UsageError
from l2pd_bench.probe import (
    begin_alone,
    begin_on_meta,
    global_seed,
    on_meta,
    plain_loop,
    where_defined,
    where_raised,
)
from l2pd_bench.registry import load_host
from l2pd_bench.strategies.base import Context, Strategy

Status = Literal["pass", "warn", "fail", "skip", "info"]
STOP = replace(SETTINGS, eot="stop")
ANALYTIC_PROMPTS = ("copy a b c", "shuffle d e f g h i", "replace z a b c d")
NEEDED = ("view", "fills", "state", "seed", "rows")  # without these, none of the next says anything
COMPARED = ("state", "seed", "rows", "loop", "stop", "caches")
ORDER = ("decision", "view", "fills", "candidates", "progress", *COMPARED, "meta", "speed")
META_STEPS, SPEED_ROUNDS = 3, 20

# What to do about each finding.
NO_READS = (
    "what a view holds may not be read on the host: no .item(), .tolist(), `if tensor`, x[mask], nonzero(); "
    "compute with masks (&, |, torch.where, rules.best)"
)
SAME_DEVICE = "make tensors on the view's device: device=view.tokens.device"
READ_ONLY = "work on a copy: masked_fill instead of masked_fill_, or clone() first"
CLIP = "the engine ignores those; if they are not meant, add `& view.candidates`"
PROGRESS = "unless that is meant, add `| best(view.confidence, view.candidates)`"
STATE = (
    "something outlives a decode (a global, an attribute), or is random in a way of its own: keep memory in the "
    "closure that begin() returns, and draw from view.uniform()"
)
SEED = "the global random numbers matter: draw from view.uniform()"
ROWS = (
    "reduce over the last dimension only, x.amax(-1, keepdim=True) and not x.max(), as rows are different samples; "
    "and copy what is kept of a view"
)
LOOP = "the rule must depend on the values in the view, and copy what it keeps of them"


@dataclass(frozen=True)
class Check:
    """One row of the table: what was looked at, and what was found."""

    name: str
    status: Status
    detail: str
    where: str | None = None  # file:line: text


def examine(strategy: Strategy) -> list[Check]:
    """All rows, in the order of the table. One that fails stops those it would mislead.

    Raises UsageError for a strategy that decodes without blocks.
    """
    if strategy.frontier() is not None:
        raise UsageError(
            f"strategy '{strategy.name}': decodes without blocks, which is tried with one sample only; "
            "check it with blocks, as its rule is the same"
        )
    kit = _Kit(strategy)
    first = kit.decode()  # before all else: what comes later is compared with it
    rows: list[Check] = []
    for name in ORDER:
        failed = [row.name for row in rows if row.status == "fail"]
        if broken := [n for n in failed if n == "decision" or (n in NEEDED and name in COMPARED)]:
            rows.append(Check(name, "skip", f"not run: see {broken[0]}"))
        else:
            rows.append(getattr(kit, name)(first))
    return rows


class _Kit(Attempts):
    """One method for every row; each gets the first decode."""

    def __init__(self, strategy: Strategy) -> None:
        super().__init__(strategy, load_host("mini", device="cpu"))

    def decision(self, first: Attempt) -> Check:
        """What `select` returns is a Decision of masks, in every step."""
        if first.fault in ("", "endless"):
            return Check("decision", "pass", "boolean masks of the right shape, in every step")
        return _failed("decision", first)

    def view(self, first: Attempt) -> Check:
        """What the engine hands in is not written to."""
        field = first.witness.changed
        if field is None:
            return Check("view", "pass", "left as it was")
        return self.fail("view", f"view.{field} was written to; {READ_ONLY}", first)

    def fills(self, first: Attempt) -> Check:
        """Every mask is filled, in bounded steps, on every host."""
        analytic = load_host("analytic")
        attempts = {
            "probe": first,
            "analytic": self.decode(host=analytic, prompts=[analytic.encode(p) for p in ANALYTIC_PROMPTS]),
            "mini": self.decode(host=self.mini, prompts=self.prompts[:1]),
        }
        found = []
        for name, attempt in attempts.items():
            if attempt.fault not in ("", "refused"):
                return _failed("fills", attempt, f"on host {name}: ")
            forwards = max((s.nfe_full for s in attempt.samples), default=0)
            found.append(f"{name} refused ({attempt.detail})" if attempt.fault else f"{name} {forwards}")
        masks = SETTINGS.gen_length
        return Check("fills", "pass", f"forwards for {masks} masks, of {STEP_CAP * masks} allowed: {', '.join(found)}")

    def candidates(self, first: Attempt) -> Check:
        """Only masked positions are chosen; the engine clips the rest without a word."""
        seen = first.witness
        found = f"{seen.outside} of {seen.chosen} choices were no candidates"
        return self.correction("candidates", found, CLIP if seen.outside else "", first)

    def progress(self, first: Attempt) -> Check:
        """Something is chosen in every step; the engine forces a commit otherwise."""
        seen = first.witness
        found = f"{seen.idle} of {seen.turns} steps had to be forced, as nothing was chosen"
        return self.correction("progress", found, PROGRESS if seen.idle else "", first)

    def correction(self, name: str, found: str, advice: str, first: Attempt) -> Check:
        """What the engine corrects is worth knowing, and no mistake by itself."""
        if not advice:
            return Check(name, "pass", found)
        return replace(self.fail(name, f"{found}; {advice}", first), status="warn")

    def state(self, first: Attempt) -> Check:
        """A decode leaves nothing behind: after another one, it comes out as before."""
        self.decode(order=(2, 1, 0))
        again = self.decode()
        return self.same("state", "the same as in the first decode", STATE, first, again)

    def seed(self, first: Attempt) -> Check:
        """Only the sample's seed decides what is drawn."""
        return self.same(
            "seed", "draws that the sample's seed decides alone", SEED, first, self.decode(global_random=1)
        )

    def rows(self, first: Attempt) -> Check:
        """A row is decided as if it were alone, also after others have ended and were dropped."""
        text = f"the same alone as in a batch of {len(PROMPTS)}, in either order, also when rows end early"
        turned = self.decode(order=(2, 1, 0))
        row = self.same("rows", text, ROWS, first, turned._replace(samples=turned.samples[::-1]))
        for settings, together in ((SETTINGS, first), (STOP, self.decode(settings=STOP))):
            alone = [self.decode(order=(i,), settings=settings) for i in range(len(PROMPTS))]
            broken = next((a for a in alone if a.fault), alone[0])
            samples = [sample for a in alone for sample in a.samples]
            if row.status == "pass":
                row = self.same("rows", text, ROWS, together, broken._replace(samples=samples))
        return row

    def loop(self, first: Attempt) -> Check:
        """The engine's bookkeeping makes no difference."""
        plain = []
        references = self.references(self.host, self.prompts, range(len(self.prompts)), SETTINGS)
        for i, prompt in enumerate(self.prompts):
            reference = None if references is None else references[i]
            with global_seed(0):
                plain.append(plain_loop(self.host, self.strategy, prompt, i, _context(first), reference))
        return self.same(
            "loop", "the same as in a loop without cache and engine", LOOP, first, first._replace(samples=plain)
        )

    def caches(self, first: Attempt) -> Check:
        """It runs where keys and values are reused; `fills` has shown that it does without."""
        found = []
        for cache in (name for name, policy in POLICIES.items() if policy.reuses):
            attempt = self.decode(host=self.mini, settings=replace(SETTINGS, cache=cache), prompts=self.prompts[:1])
            if attempt.fault:
                return _failed("caches", attempt, f"under cache {cache}: ")
            found.append(f"{cache} {sum(s.nfe_full + s.nfe_window for s in attempt.samples)}")
        return Check("caches", "pass", f"forwards on mini: {', '.join(found)}")

    def stop(self, first: Attempt) -> Check:
        """Stopping at the EoT changes no answer."""
        attempt = self.decode(settings=STOP)
        if attempt.fault:
            return _failed("stop", attempt)
        forwards = [sum(s.nfe_full for s in a.samples) for a in (attempt, first)]
        different = sum(map(self.differs, first.samples, attempt.samples))
        if not different:
            return Check("stop", "pass", f"the same answers in {forwards[0]} instead of {forwards[1]} forwards")
        found = f"{different} of {len(PROMPTS)} answers differ from those under eot decode"
        if first.witness.remasks:  # an answer may be taken back, which stopping does not wait for
            return self.correction("stop", found, "finished answers are remasked", first)
        return self.fail("stop", f"{found}; {LOOP}", first)

    def meta(self, first: Attempt) -> Check:
        """Nothing is read on the host, and nothing made on a device of its own."""
        try:
            select = begin_on_meta(self.strategy, _context(first))
            devices = {select(on_meta(view)).commit.device.type for view in first.witness.views[:META_STEPS]}
        except Exception as error:  # noqa: BLE001  # a stranger's code: whatever it raises is the finding
            text = line_of(error)
            is_own = "same device" in text or "expected device" in text
            return self.fail("meta", f"{text}; {SAME_DEVICE if is_own else NO_READS}", first, error)
        if devices != {"meta"}:
            return self.fail("meta", f"got a mask on {', '.join(devices)} for a view on meta; {SAME_DEVICE}", first)
        return Check("meta", "pass", f"{META_STEPS} steps on the meta device, where a read of a tensor raises")

    def speed(self, first: Attempt) -> Check:
        """Microseconds of `select`, in turns with `fixed-step`: told, not judged."""
        alone = self.decode(order=(0,))
        views = alone.witness.views
        times: tuple[list[float], list[float]] = ([], [])
        with torch.inference_mode():
            for _ in range(SPEED_ROUNDS):
                for strategy, taken in zip((self.strategy, self.baseline), times, strict=True):
                    select = begin_alone(self.host, strategy, _context(alone), self.prompts[0])
                    for view in views:
                        began = perf_counter()
                        select(view)
                        taken.append(perf_counter() - began)
        mine, fixed = (1e6 * median(taken) for taken in times)
        found = f"select: {mine:.0f} µs per step, {mine / fixed:.1f} x fixed-step ({fixed:.0f} µs)"
        return Check("speed", "info", found)

    def same(self, name: str, text: str, advice: str, wanted: Attempt, got: Attempt) -> Check:
        """Whether two attempts came out alike, sample by sample."""
        if got.fault or wanted.fault:
            return _failed(name, got if got.fault else wanted)
        for i, (a, b) in enumerate(zip(wanted.samples, got.samples, strict=True)):
            before, after = ((s.output_ids, s.nfe_full + s.nfe_window, s.forced_commits) for s in (a, b))
            if before != after:
                tokens = sum(x != y for x, y in zip(a.output_ids, b.output_ids, strict=False))
                tokens += abs(len(a.output_ids) - len(b.output_ids))
                found = f"got {tokens} other tokens for prompt {i + 1} in {after[1]} forwards instead of {before[1]}"
                return self.fail(name, f"{found}, expected {text}; {advice}", wanted)
        return Check(name, "pass", text)

    def differs(self, a: Decoded, b: Decoded) -> bool:
        """Whether two answer texts differ."""
        eot = self.host.eot_id
        answers = [s.output_ids[: s.output_ids.index(eot)] if eot in s.output_ids else s.output_ids for s in (a, b)]
        return self.host.decode(answers[0]) != self.host.decode(answers[1])

    def fail(self, name: str, detail: str, at: Attempt, error: BaseException | None = None) -> Check:
        """A failed row that points to the line that raised, or else to the rule."""
        own = where_raised(error, getsourcefile(type(self.strategy))) if error else None
        return Check(name, "fail", detail, own or where_defined(at.witness.rule, type(self.strategy)))


def _failed(name: str, attempt: Attempt, prefix: str = "") -> Check:
    return Check(name, "fail", f"{prefix}{attempt.detail}", attempt.where)


def _context(first: Attempt) -> Context:
    return cast(Context, first.witness.context)  # begin() was called
