"""`mini-math`: word problems of one to three steps, answered by a worked chain.

The chain makes tokens depend on each other (a result is needed by the next line), so
filling many positions at once costs accuracy here, as it does on GSM8K.
"""

from __future__ import annotations

import random
import re

from l2pd_bench.tasks.base import Item, Verdict
from l2pd_bench.tasks.mini import NAMES, MiniTask

THINGS = "apples books cards coins eggs keys pens shells stamps toys".split()
PLUS = ("{n} buys {k} more.", "{n} finds {k} more.", "{o} gives {n} {k} more.")
MINUS = ("{n} gives {k} to {o}.", "{n} loses {k}.", "{n} sells {k}.")
TIMES = ("{n} has {a} bags of {b} {t}.", "{n} has {a} boxes of {b} {t}.")
LIMIT = 99  # no number in a problem or its chain is larger

_FINAL = re.compile(r"#### (-?\d+)(?!\w|\.\d)")


class MiniMath(MiniTask):
    """Score: the number after `####` equals the reference's."""

    name = "mini-math"
    grading = "number after the first ####"

    def draw(self, rng: random.Random) -> Item:
        """Make a problem; every chain line is `left op right=result`."""
        name, other = rng.sample(NAMES, 2)
        thing = rng.choice(THINGS)
        steps = rng.choice((1, 2, 2, 3))
        text: list[str] = []
        chain: list[str] = []
        if rng.random() < 0.35:
            a, b = rng.randint(2, 9), rng.randint(2, 9)
            text.append(rng.choice(TIMES).format(n=name, a=a, b=b, t=thing))
            total = a * b
            chain.append(f"{a}*{b}={total}")
            steps -= 1
        else:
            total = rng.randint(2, 50)
            text.append(f"{name} has {total} {thing}.")
        for _ in range(steps):
            k = rng.randint(2, 9)
            grows = total < k or (total + k <= LIMIT and rng.random() < 0.5)
            text.append(rng.choice(PLUS if grows else MINUS).format(n=name, o=other, k=k))
            result = total + k if grows else total - k
            chain.append(f"{total}{'+' if grows else '-'}{k}={result}")
            total = result
        text.append(f"How many {thing} does {name} have?")
        return Item("", " ".join(text), "\n".join([*chain, f"#### {total}"]))

    def grade(self, item: Item, text: str) -> Verdict:
        """Read the number after the first `####`; a text without one scores 0."""
        found = _FINAL.search(text)
        want = _FINAL.search(item.reference)
        assert want is not None, item.doc_id
        answer = found.group(1) if found else ""
        return Verdict(answer, float(answer == want.group(1)))
