"""Runs the programs that a model wrote for `mini-code`, behind two walls.

First wall: before anything runs, the program must consist of the few kinds of Python
that the task needs (functions, loops, arithmetic, lists, a handful of builtins).
Imports, attributes, names with underscores, powers, shifts, code outside a function and
everything else is refused, with the reason.

Second wall: a fresh Python process with nothing in it: no site packages, no environment,
no files, no children, 256 MiB of memory, 2 s of processor time, a namespace that holds
only the allowed builtins. The limits are set inside that process, before the program is
compiled, and the tests count as passed only if it prints a random token that the program
cannot see. Limiting processor time keeps verdicts the same on a busy machine.

This file knows nothing about specifications or scores. It is no general sandbox: what
holds here holds because of the first wall. On macOS the memory limit is not enforced.
"""

from __future__ import annotations

import ast
import marshal
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, NamedTuple

MAX_CHARS = 2_000  # of a program
MAX_INT, MAX_STR = 999_999, 200  # of a constant in it
CPU_LIMIT_S = 2
WALL_LIMIT_S = 10  # only a starved machine gets here: an allowed program cannot wait
MEMORY_BYTES = 256 * 2**20
OUTPUT_BYTES = 2_000

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

# What the second process runs. It is trusted: it holds the token, and the program it is sent
# has no name, attribute or builtin that leads here.
_CHILD = """
import builtins, marshal, resource, sys

def run(token, program, tests, names, limits):
    for name, soft, hard in limits:
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
    print("ready", flush=True)
    space = {"__builtins__": {name: getattr(builtins, name) for name in names}}
    test = ""
    try:
        exec(compile(program, "program", "exec"), space)
        for test in tests:
            exec(compile(test, "test", "exec"), space)
    except AssertionError:
        return "AssertionError: " + test
    except BaseException as error:
        return type(error).__name__ + ": " + str(error)
    return token

print(run(*marshal.loads(sys.stdin.buffer.read()))[:500])
"""


class Outcome(NamedTuple):
    """Whether every test held, and if not, why (one line)."""

    passed: bool
    reason: str


def run_tests(program: str, tests: Sequence[str]) -> Outcome:
    """Run an untrusted program, then each test (a trusted `assert` statement) in its namespace.

    Whatever the program does is an Outcome. A second process that does not even start is
    not the program's fault and raises RuntimeError. Safe to call from several threads.
    """
    if not tests:
        raise ValueError("tests: got none, expected at least one (any program would pass)")
    reason = refusal(program)
    if reason is not None:
        return Outcome(False, reason)
    token = secrets.token_hex(16)
    status, output = _run_child(marshal.dumps((token, program, list(tests), BUILTINS, _limits())))
    started, _, rest = output.partition("\n")
    if started != "ready":
        raise RuntimeError(f"{sys.executable} could not be started to run an answer; exit {status}, it said: {output}")
    verdict = " ".join(rest.split())
    if verdict == token:
        return Outcome(True, "passed")
    if status is None:
        return Outcome(False, f"timed out after {WALL_LIMIT_S} s")
    if status == -signal.SIGXCPU:
        return Outcome(False, f"timed out after {CPU_LIMIT_S} s")
    if status < 0:
        return Outcome(False, f"the process died: {signal.Signals(-status).name}")
    return Outcome(False, verdict.rstrip(": ") or f"the process ended without a verdict: exit {status}")


def refusal(program: str) -> str | None:
    """Why a program may not run, or None if it may (the first wall)."""
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


def _limits() -> list[tuple[str, int, int]]:
    """Resource limits of the second process: name, soft, hard."""
    limits = [("RLIMIT_CPU", CPU_LIMIT_S, CPU_LIMIT_S + 1), ("RLIMIT_CORE", 0, 0), ("RLIMIT_FSIZE", 0, 0)]
    limits += [("RLIMIT_NPROC", 0, 0), ("RLIMIT_NOFILE", 0, 0)]
    if sys.platform != "darwin":  # setting it fails there
        limits.append(("RLIMIT_AS", MEMORY_BYTES, MEMORY_BYTES))
    return limits


def _run_child(payload: bytes) -> tuple[int | None, str]:
    """Run the second process on a payload: its exit status (None: it ran past our clock) and output."""
    command = [sys.executable, "-I", "-B", "-S", "-W", "ignore", "-c", _CHILD]
    # Some builds of Python do not find their own library without this one variable.
    environment = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=environment,
        start_new_session=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it died before reading; its output says why
                child.stdin.write(payload)
                child.stdin.close()
            output, ended = _read(child.stdout, time.monotonic() + WALL_LIMIT_S)
        finally:
            # The leader is not reaped yet, so the group id is still ours. A process that
            # ended by itself keeps its own status; macOS refuses to signal it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        status = child.wait()
    return (status if ended else None), output.decode("utf-8", "replace")


def _read(pipe: IO[bytes], deadline: float) -> tuple[bytes, bool]:
    """Read to the end, the cap or the deadline; False if it was the deadline."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    output = b""
    while len(output) < OUTPUT_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return output, False
        chunk = os.read(pipe.fileno(), OUTPUT_BYTES - len(output))
        if not chunk:
            return output, True
        output += chunk
    return output, True
