"""Finds the program in an answer text. It runs nothing."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import accumulate

FENCE = "```"
OPENING = "```python\n"
MAX_LINES = 100  # of a program that `sanitize` looks at

_BLOCK = re.compile(r"```\w*\n?(.*?)\n?```", re.DOTALL)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def first_block(text: str, *, is_open: bool = False) -> str:
    """The first block of Python in a text, or all of the text if it opens none.

    `is_open` says that the prompt has opened a block: then it goes on to the first fence.
    """
    _, opening, rest = text.partition(OPENING)
    if opening:
        return rest.partition(FENCE)[0]
    return text.partition(FENCE)[0] if is_open else text


def extract_code(text: str) -> str:
    """What lm-eval's filter of `mbpp_instruct` takes from an answer whose block the prompt has opened.

    As there, the text's first word is lost if no line end comes before it, and an answer
    that closes no block is empty.
    """
    found = _BLOCK.search(FENCE + text)
    return found[1] if found else ""


def sanitize(program: str, entry_point: str) -> str:
    """The part of a program that a function needs, and nothing that would not compile.

    Of the first lines it takes the longest run that parses, by lines that are not blank;
    of that, every import, and of the classes, assignments and functions with a `return`
    those that the entry point needs, directly or by way of others.
    """
    text = program.replace("\r\n", "\n").replace("\t", "    ").strip()
    lines = text.split("\n")[:MAX_LINES]
    tree = _longest_that_parses(lines)
    defined: dict[str, set[str]] = {}
    for node in _definitions(tree):
        for name in _names(node):
            defined.setdefault(name, set()).update(_mentions(node))
    needed, open_names = set[str](), [entry_point]
    while open_names:
        name = open_names.pop()
        if name in defined and name not in needed:
            needed.add(name)
            open_names += sorted(defined[name])
    kept: list[ast.stmt] = [
        node
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, Definition) and _counts(node) and needed & set(_names(node)))
    ]
    return ast.unparse(ast.Module(kept, type_ignores=[]))


def _longest_that_parses(lines: Sequence[str]) -> ast.Module:
    """Of the runs of lines that parse, the one with the most lines that are not blank, then the first."""
    so_far = [0, *accumulate(bool(line.strip()) for line in lines)]
    runs = [(so_far[j] - so_far[i], i, j) for i in range(len(lines)) for j in range(i + 1, len(lines) + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about "\d", say: what a model writes is no news to the user
        for _, i, j in sorted(runs, key=lambda run: (-run[0], *run[1:])):
            try:
                return ast.parse("\n".join(lines[i:j]))
            except (SyntaxError, ValueError, MemoryError, RecursionError):  # what no program can be made of
                continue
    return ast.Module([], type_ignores=[])


def _definitions(tree: ast.Module) -> Iterator[Definition]:
    return (node for node in tree.body if isinstance(node, Definition) and _counts(node))


def _counts(node: Definition) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return any(isinstance(inner, ast.Return) for inner in ast.walk(node))
    return True


def _names(node: Definition) -> list[str]:
    """The names that a definition gives a meaning to."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
    return [node.name]


def _mentions(node: Definition) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
