"""Programs that attack the sandbox, and a script that runs them and prints what came of it, as JSON.

    python sandbox_attacks.py LEVEL                   attack the sandbox at a level
    python sandbox_attacks.py LEVEL main|threads      run programs that sleep, until it is ended

A process of its own, so that a successful attack hits it and not the tests, and so that
it can be run as another user. Only the standard library, and the sandbox itself.

An attack's program runs to its end only if the attack succeeds, except where the test says
otherwise. It finds the names of its targets (PORT, FOLDER, HARNESS...) in its first lines.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from l2pd_bench.sandbox import Limits, Sandbox, probe

SECRET = "the harness's own variable"
TESTS_RAN = 'assert False, "the tests ran"'

# What harms nobody even without a sandbox: these must succeed there, or they prove nothing.
HARMLESS = {
    "TCP": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 5).sendall(b'x')",
    "UDP": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "Unix socket": "import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(FOLDER + '/socket')",
    "Unix datagram from a pair": """
import socket
socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', FOLDER + '/datagrams')""",
    "read /etc/passwd": "assert open('/etc/passwd').read()",
    "read a file outside": "assert open(FOLDER + '/marker').read()",
    "list a folder outside": "import os\nassert os.listdir(FOLDER)",
    "read the harness's environment": "assert 'SECRET' in open(f'/proc/{HARNESS}/environ').read()",
    "read the harness's memory map": "assert open(f'/proc/{HARNESS}/maps').read()",
    "open a file outside to write": "open(FOLDER + '/marker', 'r+')",
    "change a file's mode": "import os\nos.chmod(FOLDER + '/marker', 0o666)",
    "change a file's times": "import os\nos.utime(FOLDER + '/marker')",
    "make a folder": "import os\nos.mkdir(FOLDER + '/new')\nos.rmdir(FOLDER + '/new')",
    "make a link": "import os\nos.symlink('x', FOLDER + '/link')\nos.unlink(FOLDER + '/link')",
    "make an empty file": "import os\nopen(FOLDER + '/empty', 'w').close()\nos.unlink(FOLDER + '/empty')",
    "signal the harness": "import os\nos.kill(HARNESS, 0)",
    "signal everyone": "import os\nos.kill(-1, 0)",
    "signals by a pipe's owner": "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, HARNESS)",
    "other controls of a descriptor": """
import fcntl, os, struct
fcntl.ioctl(os.pipe()[0], 0x5452, struct.pack("i", 1))""",
    "the harness's processors": "import os\nos.sched_setaffinity(HARNESS, os.sched_getaffinity(HARNESS))",
    "the harness's priority": """
import os
os.setpriority(os.PRIO_PROCESS, HARNESS, os.getpriority(os.PRIO_PROCESS, 0))""",
    "the harness's limits": """
import resource
kind = resource.RLIMIT_CORE
resource.prlimit(HARNESS, kind, resource.prlimit(HARNESS, kind))""",
    "survive the harness": """
import ctypes
assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0""",
    "memory behind a descriptor": "import os\nos.memfd_create('x')",
    "memory that outlives the program": """
import ctypes
libc = ctypes.CDLL(None)
segment = libc.shmget(0, 1000, 0o1600)
assert segment >= 0 and libc.shmctl(segment, 0, None) == 0""",
}

PROCESSES = {
    "a new user namespace": """
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) == 0""",
    "fork bomb": """
import os, time
started = 0
for _ in range(300):
    try:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        started += 1
    except OSError as error:
        last = error
assert started, last""",
    "another program": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
    "another program by posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "become another program": "import os\nos.execv('/usr/bin/env', ['env'])",
    "multiprocessing": "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
    "a detached grandchild": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)""",
    "four times 300 MB": """
import os
for _ in range(4):
    if os.fork() == 0:
        x = bytearray(300 * 2**20)
        os._exit(0)""",
}

MEMORY = {
    "1 GB": "x = bytearray(2**30)\nx[::4096] = bytes(len(x[::4096]))",
    "1 GB in small pieces": "x = []\nwhile len(x) < 10_000:\n    x.append(bytearray(100_000))",
    "1 GB mapped": "import mmap\nx = mmap.mmap(-1, 2**30)",
    "1 GB in threads": """
import threading
threads = [threading.Thread(target=lambda: kept.append(bytearray(100 * 2**20))) for _ in range(10)]
kept, failed = [], []
threading.excepthook = failed.append
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failed:
    raise MemoryError""",
    "1 GB after raising the limit": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
x = bytearray(2**30)""",
}

DISK = {
    f"fill {place}": f"""
import os
for number in range(80):
    with open(os.path.join({where}, f'fill{{number}}'), 'wb') as file:
        file.write(bytes(10_000_000))"""
    for place, where in {"/tmp": "'/tmp'", "/dev/shm": "'/dev/shm'", "here": "'.'", "a folder": "FOLDER"}.items()
}
DISK["a temporary file"] = "import tempfile\ntempfile.TemporaryFile()"

HARNESS = {
    "kill the harness": "import os, signal\nos.kill(HARNESS, signal.SIGKILL)",
    "kill the harness's group": "import os, signal\nos.killpg(os.getpgid(HARNESS), signal.SIGKILL)",
    "kill the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "stop the harness": "import os, signal\nos.kill(HARNESS, signal.SIGSTOP)",
    "trace the harness": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, HARNESS, None, None) == 0",
    "trace the parent": "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), None, None) == 0",
    "delete a file outside": "import os\nos.unlink(FOLDER + '/marker')",
    "rename a file outside": "import os\nos.rename(FOLDER + '/marker', FOLDER + '/gone')",
    "truncate a file outside": "import os\nos.truncate(FOLDER + '/marker', 0)",
    "write a file outside": "open(FOLDER + '/marker', 'w').write('changed')",
}

TIME = {
    "a loop that ignores signals": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass""",
    "sleep": "import time\ntime.sleep(60)",
    "a thread that sleeps": """
import threading, time
thread = threading.Thread(target=time.sleep, args=(60,))
thread.start()
thread.join()""",
    "wait for input": "import os\nos.read(os.pipe()[0], 1)",
}

# All reachable objects, by frames and by the garbage collector: the start of several programs.
REACHABLE = """
import gc, sys
seen, todo = {}, list(gc.get_objects())
frame = sys._getframe()
while frame:
    todo += [frame.f_locals, frame.f_globals, frame.f_code, *frame.f_code.co_consts, *gc.get_referents(frame)]
    frame = frame.f_back
while todo:
    thing = todo.pop()
    if id(thing) not in seen:
        seen[id(thing)] = thing
        todo += gc.get_referents(thing)
things = list(seen.values())
"""

FORGERIES = {
    "exit at once": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit()",
    "SystemExit": "raise SystemExit(0)",
    "exit": "exit()",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "an exception that is none": """
class Odd(BaseException):
    def __str__(self):
        raise SystemExit(0)
raise Odd""",
    "print": "print('passed')\nprint('ready', flush=True)",
    "print at exit": "import atexit\natexit.register(print, 'passed')",
    "close standard output": "import sys\nsys.stdout.close()\nsys.stderr.close()",
    "close every descriptor": "import os\nos.closerange(0, 256)",
    "replace standard output": "import io, sys\nsys.stdout = sys.stderr = sys.__stdout__ = io.StringIO()",
    "replace builtins": """
import builtins
class AssertionError(Exception):
    pass
for name in ('print', 'AssertionError', '__import__', 'open', 'exec', 'eval', 'compile', 'type', 'str', 'len'):
    setattr(builtins, name, lambda *a, **k: None)""",
    "no builtins": "__builtins__ = {}",
    "replace modules": """
import sys, types
for name in list(sys.modules):
    sys.modules[name] = types.ModuleType(name)""",
    "no modules": "import sys\nsys.modules.clear()",
    "a test of its own": "def check(*a):\n    pass\ncandidate = check",
    "replace every function within reach": """
import sys
frame = sys._getframe()
while frame:
    for space in (frame.f_globals, frame.f_locals):
        for name, value in list(space.items()):
            if callable(value):
                space[name] = lambda *a, **k: None
    frame = frame.f_back""",
    "clear the namespaces of the frames": """
import sys
frame = sys._getframe().f_back
while frame:
    frame.f_globals.clear()
    frame.f_locals.clear()
    frame = frame.f_back""",
    "clear every container within reach": REACHABLE
    + """
for thing in things:
    if type(thing) in (list, set):
        thing.clear()""",
    "run every iterator within reach": REACHABLE
    + """
from collections.abc import Iterator
for thing in things:
    if isinstance(thing, Iterator) and 'file' not in type(thing).__name__.lower():
        try:
            for _ in zip(range(100), thing):
                pass
        except BaseException:
            pass""",
    "write to every descriptor": """
import os
for descriptor in range(64):
    for text in (b'passed', b'0' * 32, b'ready\\n'):
        try:
            os.write(descriptor, text)
        except OSError:
            pass""",
    "a thread that writes to every descriptor": """
import os, threading
def flood():
    while True:
        for descriptor in range(64):
            try:
                os.write(descriptor, b'x' * 10_000)
            except OSError:
                pass
threading.Thread(target=flood, daemon=True).start()""",
    "answer with what the pipes say": """
import fcntl, os
for descriptor in range(64):
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK)
        text = os.read(descriptor, 1000)
        for other in range(64):
            os.write(other, text)
    except OSError:
        pass""",
    "jump over the rest of the runner": """
import sys
def trace(frame, event, argument):
    if frame.f_code.co_name in ('judge', 'main') and event == 'line':
        for line in range(frame.f_lineno + 20, frame.f_lineno, -1):
            try:
                frame.f_lineno = line
                break
            except ValueError:
                pass
    return trace
frame = sys._getframe()
while frame:
    frame.f_trace = trace
    frame = frame.f_back
sys.settrace(trace)
raise ZeroDivisionError""",
    "interrupt the tests": """
import signal
def stop(*a):
    raise SystemExit(0)
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)""",
    "find the seal": REACHABLE
    + """
import os
found = {thing for thing in things if isinstance(thing, (bytes, str, bytearray)) and len(thing) == 32}
found = [text for text in found if set(text) <= set(b'0123456789abcdef') | set('0123456789abcdef')]
if not found:
    raise LookupError('no seal within reach')
for descriptor in range(64):
    for text in found:
        try:
            os.write(descriptor, text if isinstance(text, bytes) else text.encode())
            os.write(descriptor, os.read(descriptor - 1, 32))
        except OSError:
            pass""",
}

_SHORT = Limits(wall_s=0.5)
_BUSY = Limits(wall_s=10, cpu_s=1)
_SMALL = Limits(memory_bytes=200 * 2**20)  # to touch less of the machine's memory takes less time


@cache
def faults() -> dict[str, str]:
    """Why levels cannot be tested on this machine. One that starts and lets an attack through can, and will fail."""
    return {level: "" if fault.startswith("AssertionError") else fault for level, fault in probe().items()}


def main(level: str) -> None:
    """Run every attack at a level, the bare one only against what is harmless; print what was seen, as JSON."""
    os.environ["SECRET"] = SECRET  # for those who look; `environ` shows what the process was started with
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "marker").write_text("as it was")
        before = sorted(path.name for path in folder.iterdir())
        stream, datagrams, unix_stream, unix_datagrams = listeners(folder)
        targets = {"PORT": stream.getsockname()[1], "FOLDER": name, "HARNESS": os.getpid()}
        head = "".join(f"{key} = {value!r}\n" for key, value in targets.items())
        groups = [HARMLESS] if level == "bare" else [HARMLESS, PROCESSES, DISK, HARNESS]
        attacks = {key: (head + program, "", Limits()) for group in groups for key, program in group.items()}
        if level != "bare":
            attacks |= {key: (program, TESTS_RAN, Limits()) for key, program in FORGERIES.items()}
            attacks |= {key: (program, "", _SMALL) for key, program in MEMORY.items()}
            attacks |= {key: (program, "", _BUSY if "loop" in key else _SHORT) for key, program in TIME.items()}
        with ThreadPoolExecutor(6) as pool:
            outcomes = dict(zip(attacks, pool.map(lambda one: Sandbox(level).run(*one), attacks.values()), strict=True))
        harm = [f"{one} was reached" for one in (stream, datagrams, unix_stream, unix_datagrams) if reached(one)]
        for path in ("socket", "datagrams"):
            (folder / path).unlink()
        after = sorted(path.name for path in folder.iterdir())
        if after != before or (folder / "marker").read_text() != "as it was":
            harm.append(f"the folder holds {after}")
    print(json.dumps({"outcomes": outcomes, "harm": harm}))  # noqa: T201 - to the test that started this


def listeners(folder: Path) -> list[socket.socket]:
    """Sockets on this machine that nobody may reach: TCP, UDP on the same port, two Unix ones."""
    stream = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(stream.getsockname())
    unix_stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix_stream.bind(str(folder / "socket"))
    unix_stream.listen()
    unix_datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix_datagrams.bind(str(folder / "datagrams"))
    return [stream, datagrams, unix_stream, unix_datagrams]


def reached(listener: socket.socket) -> bool:
    """Whether anybody has connected or sent something."""
    listener.setblocking(False)
    try:
        if listener.type == socket.SOCK_STREAM:
            listener.accept()
        else:
            listener.recv(1)
    except BlockingIOError:
        return False
    return True


def wait_forever(level: str, threads: bool) -> None:
    """Run programs that sleep, until somebody ends this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
    jobs = [("import time\ntime.sleep(600)", "")] * 2
    limits = Limits(wall_s=600)
    print("started", flush=True)  # noqa: T201 - to the test that started this
    if threads:
        Sandbox(level).run_all(jobs, limits, workers=2)
    else:
        Sandbox(level).run(*jobs[0], limits)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        wait_forever(sys.argv[1], sys.argv[2] == "threads")
