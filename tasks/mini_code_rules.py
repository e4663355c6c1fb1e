"""Which programs a model may answer `mini-code` with: the few kinds of Python that the task needs.

Functions, loops, arithmetic, lists, a handful of builtins. Imports, attributes, names
with underscores, powers, shifts, code outside a function and everything else is refused,
with the reason. What is left can use up time and memory, and do no other harm, so a
limited process is enough to run it, on any machine.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

MAX_CHARS = 2_000  # of a program
MAX_INT, MAX_STR = 999_999, 200  # of a constant in it

# fmt: off
BUILTINS = (
    "abs", "all", "any", "bool", "divmod", "enumerate", "int", "len", "list", "max", "min", "range", "reversed",
    "round", "sorted", "str", "sum", "tuple", "zip",
)
METHODS = ("append", "count", "extend", "index", "insert", "join", "pop", "reverse", "sort")
NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.Expr,
    ast.If, ast.IfExp, ast.For, ast.While, ast.Break, ast.Continue, ast.Pass,
    ast.Name, ast.Constant, ast.Load, ast.Store, ast.Call, ast.Attribute, ast.Subscript, ast.Slice,
    ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp, ast.comprehension,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.UnaryOp, ast.UAdd, ast.USub, ast.Not, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot,
)
# fmt: on

# A character that is not printable ASCII, a backslash, or a number that runs into a keyword
# (`1if`): no right answer needs them, and the last two make the parser warn on the terminal.
_ODD_TEXT = re.compile(r"[^\t\n -\[\]-~]|\b\d[\w.]*(?:and|else|for|if|in|is|not|or)\b")


def refusal(program: str) -> str | None:
    """Why a program may not run, or None if it may."""
    if len(program) > MAX_CHARS:
        return f"not allowed: more than {MAX_CHARS} characters"
    odd = _ODD_TEXT.search(program)
    if odd:
        return f"not allowed: text {odd.group()[:40]!r}"
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # all that the parser says of bad text
        return f"not Python: {str(error) or type(error).__name__}"
    nodes = list(ast.walk(tree))
    faults = [type(node).__name__ for node in nodes if not isinstance(node, NODES)] or [
        fault for node in nodes for fault in _faults(node)
    ]
    faults = faults or _foreign(tree, nodes)
    return f"not allowed: {faults[0]}" if faults else None


def _faults(node: ast.AST) -> list[str]:
    """What is wrong with a node of an allowed kind, seen alone."""
    match node:
        case ast.arguments(args=args):
            plain = len(args) == sum(1 for _ in ast.iter_child_nodes(node))
            return [] if plain else ["arguments other than plain ones"]
        case ast.arg(annotation=ast.expr()) | ast.FunctionDef(returns=ast.expr()):
            return ["annotation"]
        case ast.FunctionDef(decorator_list=[_, *_]):
            return ["decorator"]
        case ast.Constant(value=value):
            small = abs(value) <= MAX_INT if isinstance(value, int) else len(str(value)) <= MAX_STR
            return [] if small and isinstance(value, int | str | None) else [f"Constant {str(value)[:40]}"]
    return []


def _foreign(tree: ast.Module, nodes: Sequence[ast.AST]) -> list[str]:
    """What in a program leads out of it: code outside functions, attributes, names."""
    faults = [f"{type(n).__name__} outside a function" for n in tree.body if not isinstance(n, ast.FunctionDef)]
    faults += ["FunctionDef in a function" for n in nodes if isinstance(n, ast.FunctionDef) and n not in tree.body]
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    faults += [f"Attribute {node.attr}" for node in attributes if node not in called or node.attr not in METHODS]
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    faults += [f"another meaning for {name}" for name in BUILTINS if name in bound]
    names = bound | {node.id for node in nodes if isinstance(node, ast.Name)}
    known = {name for name in bound if not name.startswith("_")}.union(BUILTINS)
    return faults + [f"name {name}" for name in sorted(names - known)]
