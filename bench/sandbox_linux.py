"""What a sandboxed process is started with: command line, environment, and the walls it puts around itself.

Knows numbers and paths, and nothing of programs and verdicts. The filter of system calls
names what is allowed, so that a call nobody thought of is refused: whatever computes,
reads what may be read, starts threads and talks to itself. Not in it: processes and
programs, signals, sockets that lead out, new files and changes to files, limits,
priorities, memory that outlives or evades the limit (memfd, System V), and everything
for administrators. POSIX timers are left out, as they send any signal: only somebody
else's SIGKILL ends a process within its limits.
"""

from __future__ import annotations

import marshal
import os
import platform
import shutil
import struct
import sys
from functools import cache
from pathlib import Path

from l2pd_bench.errors import BenchError

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # as the kernel names them to a filter

# name, number on x86_64, number on aarch64 ("-": it does not exist there)
_ALLOWED = """
read 0 63, write 1 64, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, preadv 295 69, pwritev 296 70,
preadv2 327 286, pwritev2 328 287, lseek 8 62, ftruncate 77 46, fsync 74 82, fdatasync 75 83, fadvise64 221 223,
sendfile 40 71, copy_file_range 326 285, open 2 -, openat 257 56, openat2 437 437, close 3 57, close_range 436 436,
dup 32 23, dup2 33 -, dup3 292 24, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43,
fstatfs 138 44, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents 78 -,
getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, umask 95 166,
pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -,
epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441,
sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, shutdown 48 210, getsockname 51 204,
getpeername 52 205, getsockopt 55 209,
mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233, msync 26 227, brk 12 214,
membarrier 324 283, futex 202 98, set_robust_list 273 99, rseq 334 293, set_tid_address 218 96, arch_prctl 158 -,
sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigsuspend 130 133,
rt_sigtimedwait 128 137, sigaltstack 131 132, pause 34 -, restart_syscall 219 128,
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, times 100 153, alarm 37 -, getitimer 36 102, setitimer 38 103,
getpid 39 172, getppid 110 173, gettid 186 178, getpgid 121 155, getpgrp 111 -, getsid 124 156, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158,
getrlimit 97 163, getrusage 98 165, sysinfo 99 179, uname 63 160, getrandom 318 278, wait4 61 260, waitid 247 95,
exit 60 93, exit_group 231 94
"""

# Allowed with certain arguments: each condition is (argument, its upper half, mask, values), and all must hold.
_CLONE_THREAD = 0x10000
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # terminal? its size, bytes to read, blocking, inheritance
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032)  # duplicates, flags, the size of a pipe; no locks, no signals to an owner
_CONDITIONAL: dict[str, list[tuple[int, bool, int, tuple[int, ...]]]] = {
    "clone 56 220": [(0, False, _CLONE_THREAD, (_CLONE_THREAD,))],
    "ioctl 16 29": [(1, False, 0xFFFFFFFF, _IOCTLS)],
    "fcntl 72 25": [(1, False, 0xFFFFFFFF, _FCNTLS)],
    "prctl 157 167": [(0, False, 0xFFFFFFFF, (15,))],  # the name of a thread
    "prlimit64 302 261": [(2, False, 0xFFFFFFFF, (0,)), (2, True, 0xFFFFFFFF, (0,))],  # to read limits
    "socketpair 53 199": [(0, False, 0xFFFFFFFF, (1,)), (1, False, 0xF, (1,))],  # a Unix stream, for asyncio
}
_CLONE3 = 435  # its flags are out of a filter's sight; without it, the C library calls clone
_LAST_KNOWN = 450  # what came after it is "not implemented", to which the C library has an answer

_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06  # operations of classic BPF
_ALLOW, _REFUSE, _MISSING, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # EPERM, ENOSYS


def command(level: str) -> list[str]:
    """What to execute for a process of that level."""
    python = [interpreter(), "-s", "-P", "-B", "-S", "-X", "utf8", "-c", _child_text()]
    if level != "bwrap":
        return python
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise BenchError("sandbox bwrap: bubblewrap is not installed (no `bwrap` on the PATH)")
    return [bubblewrap, *_namespaces(), *python]


def environment() -> dict[str, str]:
    """All the variables that a program finds."""
    variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
    # Threads would otherwise take the address space: 64 MB each, and one for each processor.
    variables |= {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # Some builds of Python do not find their own library without this one.
    return variables | {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}


def configuration(level: str, cpu_s: int, memory_bytes: int) -> bytes:
    """What the process must know to confine itself, as `sandbox_child.py` reads it."""
    limits = {
        "RLIMIT_CPU": (cpu_s, cpu_s + 1),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_NOFILE": (64, 64),
    }
    if sys.platform != "darwin":  # setting it fails there
        limits["RLIMIT_AS"] = (memory_bytes, memory_bytes)
    if level == "bare":
        limits["RLIMIT_NPROC"] = (0, 0)  # no processes, and no threads; root does as it likes
        return marshal.dumps((limits, None, b"", [], sys.platform == "linux"))
    paths = _openable() if level == "landlock" else None
    return marshal.dumps((limits, paths, system_call_filter(platform.machine()), package_folders(), True))


@cache
def system_call_filter(machine: str) -> bytes:
    """The filter for an architecture, as the kernel takes it: 8 bytes for each instruction."""
    if machine not in ARCHITECTURES or sys.maxsize < 2**32:
        raise BenchError(
            f"sandbox: got {machine}, expected 64-bit {' or '.join(ARCHITECTURES)} (no other filter is written)"
        )
    column = 1 + list(ARCHITECTURES).index(machine)
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, 0), (_GREATER, 0, 1, _LAST_KNOWN), (_RETURN, 0, 0, _MISSING)]
    code += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _MISSING)]
    for entry in _ALLOWED.replace("\n", " ").split(","):
        number = entry.split()[column]
        if number != "-":
            code += [(_EQUAL, 0, 1, int(number)), (_RETURN, 0, 0, _ALLOW)]
    for entry, conditions in _CONDITIONAL.items():
        checks: list[tuple[int, int, int, int]] = []
        for argument, upper, mask, values in reversed(conditions):
            # The values in turn: a hit skips the others and the refusal behind them.
            tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
            load = [(_LOAD, 0, 0, 16 + 8 * argument + 4 * upper), (_AND, 0, 0, mask)]
            checks = [*load, *tests, (_RETURN, 0, 0, _REFUSE), *checks]
        checks.append((_RETURN, 0, 0, _ALLOW))
        code += [(_EQUAL, 0, len(checks), int(entry.split()[column])), *checks]
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


@cache
def interpreter() -> str:
    """The interpreter outside of any virtual environment: it needs no file but those in its own prefix."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def package_folders() -> list[str]:
    """Where this interpreter has its installed packages."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages") and Path(path).is_dir()]


def _readable() -> list[str]:
    """Folders that a program may read: the system's libraries, the interpreter's, the installed packages."""
    folders = ["/usr"]
    for folder in (os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix), *package_folders()):
        if not any(Path(folder).is_relative_to(known) for known in folders):
            folders.append(folder)
    return folders


@cache
def _openable() -> dict[str, bool]:
    """The files and folders a program may open, and whether to write."""
    paths = dict.fromkeys([*_readable(), "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"], False)
    return {path: writable for path, writable in {**paths, "/dev/null": True}.items() if Path(path).exists()}


@cache
def _namespaces() -> list[str]:
    """Options of bubblewrap: namespaces of its own, and a read-only tree of what may be read."""
    options = ["--unshare-user", "--uid", "65534", "--gid", "65534", "--unshare-pid", "--unshare-net"]
    options += ["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--cap-drop", "ALL"]
    for folder in _readable():
        options += ["--ro-bind", folder, folder]
    for name in ("/lib", "/lib64"):
        if Path(name).is_symlink():
            options += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).exists():
            options += ["--ro-bind", name, name]
    options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for device in ("/dev/null", "/dev/urandom"):
        options += ["--dev-bind", device, device]
    return [*options, "--remount-ro", "/", "--chdir", "/"]


@cache
def _child_text() -> str:
    return Path(__file__).with_name("sandbox_child.py").read_text("utf-8")
