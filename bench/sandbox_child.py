"""What runs inside the sandbox: it closes every door, runs a program and its tests, and says how that ended.

Not imported: `sandbox.py` gives this text to a fresh interpreter with `-c`, so nothing
here may import from the package, and every import costs start-up time.

The two pipes to the harness are descriptors 0 and 1, moved away before the program runs:
    <- configuration        limits, readable paths, system call filter
    -> ready                from here on nothing can be undone
    <- program, tests, seal
    -> the seal, or in words why the tests did not pass
    <- token                only to a process that knew the seal
    -> the token
"""

from __future__ import annotations

import builtins
import marshal
import posix
import resource
import sys

TYPE_CHECKING = False  # `typing` would cost start-up time
if TYPE_CHECKING:
    from collections.abc import Mapping

SEAL_BYTES = 32  # written at once by the harness, so read at once
REASON_BYTES = 2_000

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
SIGKILL = 9
CAPABILITY_VERSION = 0x20080522
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
LANDLOCK_PATH_BENEATH = 1
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many file rights each ABI knows; later ones: 16


def take(source: int, size: int) -> bytes:
    """Read exactly `size` bytes; an early end means that the harness is gone."""
    parts = []
    while size > 0:
        part = posix.read(source, min(size, 1 << 20))
        if not part:
            posix._exit(1)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def take_message(source: int) -> bytes:
    """Read one message: its length in eight bytes, then itself."""
    return take(source, int.from_bytes(take(source, 8), "big"))


def set_limits(limits: Mapping[str, tuple[int, int]]) -> None:
    """Set resource limits by name, soft and hard, never above the ones already there."""
    for name, (soft, hard) in limits.items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def confine(paths: Mapping[str, bool] | None, program_filter: bytes) -> None:
    """Die with the parent, open no file but `paths`, make no system call but those in the filter.

    `paths` says of each path whether it may be written; None is no such wall. An empty
    filter allows every call. Raises OSError where the kernel cannot do it.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long

    def ask(what: str, answer: int) -> int:
        if answer < 0:
            raise OSError(ctypes.get_errno(), f"{what}: {posix.strerror(ctypes.get_errno())}")
        return answer

    def control(what: str, option: int, *values: int) -> None:
        words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
        ask(what, libc.prctl(option, *words))

    def landlock(what: str, number: int, *values: object) -> int:
        words = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
        return ask(f"landlock, {what}", libc.syscall(ctypes.c_long(number), *words))

    control("no new privileges", PR_SET_NO_NEW_PRIVS, 1)
    if paths is not None:
        abi = landlock("version", LANDLOCK_CREATE, None, 0, 1)
        rights = (1 << LANDLOCK_RIGHTS.get(abi, 16)) - 1
        # Later ABIs also know TCP and scopes of signals and sockets: the filter has those too.
        handled = struct.pack("<QQQ", rights, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
        rules = landlock("new rules", LANDLOCK_CREATE, handled, len(handled), 0)
        for path, writable in paths.items():
            place = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
            folder = posix.stat(place).st_mode & 0o170000 == 0o040000
            allowed = READ_FILE | (READ_DIR if folder else 0) | (WRITE_FILE if writable else 0)
            rule = struct.pack("<Qi", allowed, place)
            landlock(f"rule for {path}", LANDLOCK_ADD, rules, LANDLOCK_PATH_BENEATH, rule, 0)
            posix.close(place)
        landlock("restrict", LANDLOCK_RESTRICT, rules, 0)
        posix.close(rules)
    if program_filter:
        # Root could raise its limits, and more: it becomes a user without privileges who owns root's files.
        ask("drop capabilities", libc.capset(struct.pack("<Ii", CAPABILITY_VERSION, 0), bytes(24)))
    control("die with the parent", PR_SET_PDEATHSIG, SIGKILL)
    if program_filter:
        code = ctypes.create_string_buffer(program_filter)
        header = ctypes.create_string_buffer(struct.pack("@HP", len(program_filter) // 8, ctypes.addressof(code)))
        control("system call filter", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header))


def describe(error: BaseException, tests: str) -> str:
    """An exception in words, with the last line of the tests that it went through."""
    words = type(error).__name__
    try:
        if str(error):
            words += f": {str(error)[:300]}"
        line, step = 0, error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename == "<tests>":
                line = step.tb_lineno
            step = step.tb_next
        if line:
            words += f" (tests, line {line}: {tests.splitlines()[line - 1].strip()[:300]})"
    except BaseException:  # noqa: BLE001 - the program may have written str() of its exception
        return words
    return words


def judge(source: int, sink: int) -> None:
    """Run the program, then the tests in its namespace, and say how that ended; does not return.

    The program can do to this process whatever Python can: walk the frames, replace any
    builtin, look at all objects. So what comes after it started is one expression whose
    parts are already on the interpreter's value stack: no name is looked up any more, and
    the seal is in no variable and no container. Python code cannot read that stack.
    """
    run, write, read, leave, say = exec, posix.write, posix.read, posix._exit, describe
    script = sys.modules["__main__"] = type(sys)("__main__")  # where pickle, dataclasses and others look names up
    space = script.__dict__
    space["__builtins__"] = builtins
    sys.argv = ["program"]
    test_text = ""
    try:
        program_text = take_message(source).decode("utf-8", "surrogatepass")
        test_text = take_message(source).decode("utf-8", "surrogatepass")
        tests = compile(test_text, "<tests>", "exec", dont_inherit=True, optimize=0)
        program = compile(program_text, "<program>", "exec", dont_inherit=True, optimize=0)
        # In the order of execution: read the seal, run the program, run the tests, write the seal.
        write(sink, (read(source, SEAL_BYTES), run(tests, (space, run(program, space))[0]))[0])
    except MemoryError:
        write(sink, b"out of memory")
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is its outcome
        write(sink, say(error, test_text).encode("utf-8", "replace")[:REASON_BYTES])
    else:
        write(sink, read(source, SEAL_BYTES))
    leave(0)


def main() -> None:
    """Move the pipes away, close the doors, say so, and go on to the program."""
    source, sink = posix.dup(0), posix.dup(1)
    try:
        limits, paths, program_filter, packages, on_linux = marshal.loads(take_message(source))
        nothing = posix.open("/dev/null", posix.O_RDWR)
        set_limits(limits)
        if on_linux:
            confine(paths, program_filter)
        sys.path += packages
    except BaseException as error:  # noqa: BLE001 - no program has run yet: the harness reports it
        posix.write(sink, describe(error, "").encode("utf-8", "replace"))
        posix._exit(1)
    for standard in (0, 1, 2):
        posix.dup2(nothing, standard)
    posix.close(nothing)
    posix.write(sink, b"ready\n")
    judge(source, sink)


if __name__ == "__main__":
    main()
