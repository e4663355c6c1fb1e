"""Records under faults: kill -9, torn lines, a full disk, a second process."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from record_factory import WARMUP, content, manifest, sample, stored

from l2pd_bench.errors import RecordError
from l2pd_bench.records import load_runs
from l2pd_bench.writer import open_run


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start Python on `code`, where the factory can be imported; sys.argv[1:] are the arguments."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, **options)


class TestOneWriter:
    HOLD = """
        import sys
        from pathlib import Path
        from record_factory import manifest, open_run
        with open_run(Path(sys.argv[1]), manifest()):
            print("open", flush=True)
            sys.stdin.readline()
        """

    def test_second_is_refused(self, tmp_path: Path) -> None:
        """The second process is told the first's pid and host; when the first is killed, the way is free."""
        with child(self.HOLD, tmp_path, stdin=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(RecordError, match=rf"process {holder.pid} on {socket.gethostname()} is writing"):
                open_run(tmp_path, manifest())
            assert load_runs(tmp_path)[0].manifest.status == "running"
            holder.kill()
            holder.wait()

            open_run(tmp_path, manifest()).close()

    def test_same_process(self, tmp_path: Path) -> None:
        """A run is open once in a process too; other runs are not concerned."""
        first = open_run(tmp_path, manifest())
        open_run(tmp_path, manifest(cache="dual")).close()
        with pytest.raises(RecordError, match=f"process {os.getpid()} on"):
            open_run(tmp_path, manifest())
        first.close()
        open_run(tmp_path, manifest()).close()


class TestFaults:
    def test_torn_anywhere(self, tmp_path: Path) -> None:
        """Wherever the last line is cut, the samples before it are kept, the piece is dropped, and that is said."""
        _, path = stored(tmp_path, 3)
        whole = path.read_bytes()
        keep = whole.rstrip(b"\n").rindex(b"\n") + 1
        for cut in [*range(keep + 1, len(whole), 7), len(whole) - 1]:
            path.write_bytes(whole[:cut])
            assert len(load_runs(tmp_path)[0].samples) == 2
            assert path.stat().st_size == cut
            with open_run(tmp_path, manifest()) as writer:
                assert writer.recovered is not None
                assert f"dropped a torn last line ({cut - keep} bytes)" in writer.recovered
                assert len(writer.done) == 2
            assert path.read_bytes() == whole[:keep]

    @pytest.mark.parametrize("tail", [b"\0" * 4096, b'{"doc_id": "mini-m\n', b"\xff\xfe\n", b"\n"])
    def test_torn_with_garbage(self, tmp_path: Path, tail: bytes) -> None:
        """A last line that is no JSON is dropped too, and the run goes on behind what is kept."""
        _, path = stored(tmp_path, 2)
        whole = path.read_bytes()
        path.write_bytes(whole + tail)
        with open_run(tmp_path, manifest()) as writer:
            assert writer.recovered is not None
            writer.append([sample(2, writer.start_segment("s1", WARMUP))])

        assert path.read_bytes().startswith(whole)
        assert len(load_runs(tmp_path)[0].samples) == 3

    def test_kill_nine(self, tmp_path: Path) -> None:
        """Killed a dozen times at random moments, a run loses nothing it had acknowledged, and doubles nothing."""
        code = """
            import sys
            from pathlib import Path
            from record_factory import WARMUP, manifest, open_run, sample
            with open_run(Path(sys.argv[1]), manifest(planned=100_000)) as writer:
                done = writer.done
                segment = writer.start_segment("s", WARMUP)
                print("go", flush=True)
                for i in range(0, 100_000, 3):
                    batch = [s for s in (sample(i + j, segment) for j in range(3)) if s.doc_id not in done]
                    writer.append(batch)
                    print(*(s.doc_id for s in batch), flush=True)
            """
        rng = random.Random(5)
        acknowledged: set[str] = set()
        for _ in range(12):
            with child(code, tmp_path) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "go\n"
                time.sleep(rng.uniform(0.0, 0.08))
                process.kill()
                acknowledged |= set(process.stdout.read().split())
            (run,) = load_runs(tmp_path)
            assert acknowledged <= {s.doc_id for s in run.samples}
        lines = (run.folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
        counts = Counter(json.loads(line)["doc_id"] for line in lines if line.endswith(b"\n"))

        assert len(acknowledged) > 20
        assert set(counts.values()) == {1}

    def test_every_crash_point(self, tmp_path: Path) -> None:
        """Killed before any single write, sync, rename or creation, a run is readable, and continues to its end.

        Every write is moreover cut in half by the crash.
        """
        code = """
            import os, signal, sys
            from pathlib import Path
            from l2pd_bench.errors import UsageError
            from l2pd_bench.records import load_runs
            from record_factory import WARMUP, manifest, open_run, sample

            os.fsync = lambda _: None  # a kill does not ask for it, and it is slow

            def scenario(root, restart, acknowledge):
                with open_run(root, manifest(planned=3), restart=restart) as writer:
                    segment = writer.start_segment("s", WARMUP)
                    for batch in ([0, 1], [2]):
                        samples = [sample(i, segment) for i in batch]
                        writer.append([s for s in samples if s.doc_id not in writer.done])
                        acknowledge(samples)
                    writer.finish("finished")

            def crash_at(point, root, restart, pipe):
                left, write = [point], os.write
                def crashing(name, real):
                    def call(*arguments, **options):
                        left[0] -= 1
                        if left[0] == 0:
                            if name == "write":
                                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real(*arguments, **options)
                    return call
                for name in ("open", "write", "pwrite", "fsync", "ftruncate", "mkdir", "replace", "rename"):
                    setattr(os, name, crashing(name, getattr(os, name)))
                scenario(root, restart, lambda samples: write(pipe, "".join(s.doc_id + " " for s in samples).encode()))
                os._exit(0)

            points = 0
            for restart in (False, True):
                for point in range(1, 200):
                    root = Path(sys.argv[1]) / f"{restart}-{point}"
                    if restart:
                        scenario(root, False, lambda samples: None)
                    reader, pipe = os.pipe()
                    if os.fork() == 0:
                        crash_at(point, root, restart, pipe)
                    os.close(pipe)
                    _, status = os.wait()
                    acknowledged = set(os.fdopen(reader).read().split())
                    if status == 0:
                        break
                    assert os.WTERMSIG(status) == signal.SIGKILL, status
                    points += 1
                    try:
                        recorded = {s.doc_id for run in load_runs(root) for s in run.samples}
                    except UsageError:
                        recorded = set()
                    assert acknowledged <= recorded, (restart, point, acknowledged, recorded)
                    scenario(root, False, lambda samples: None)
                    (run,) = load_runs(root)
                    assert run.manifest.status == "finished" and not run.torn_bytes
                    assert sorted(s.doc_id for s in run.samples) == [f"mini-math/00{i}" for i in range(3)]
                    lines = (run.folder / "samples.jsonl").read_text().splitlines()
                    assert len(lines) == 3, (restart, point, lines)
            print(points)
            """
        with child(code, tmp_path) as process:
            output, _ = process.communicate()

        assert process.returncode == 0
        assert int(output) > 50

    def test_full_disk(self, tmp_path: Path) -> None:
        """On a full disk an append fails whole and says so; with room again, the same writer and a new one go on."""
        code = """
            import resource, signal, sys
            from pathlib import Path
            from l2pd_bench.errors import RecordError
            from record_factory import WARMUP, manifest, open_run, sample
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            with open_run(Path(sys.argv[1]), manifest(planned=9)) as writer:
                path = writer.folder / "samples.jsonl"
                segment = writer.start_segment("s", WARMUP)
                writer.append([sample(0, segment)])
                before, manifest_before = path.read_bytes(), (writer.folder / "run.json").read_bytes()
                room = len(before) * 5 // 2  # one more sample and a half
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
                try:
                    writer.append([sample(i, segment) for i in (1, 2, 3)])
                except RecordError as error:
                    print(error)
                assert path.read_bytes() == before and writer.done == {"mini-math/000"}
                resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
                try:
                    writer.finish("interrupted")
                except RecordError as error:
                    print(error)
                assert (writer.folder / "run.json").read_bytes() == manifest_before
                assert sorted(p.name for p in writer.folder.iterdir()) == [".lock", "run.json", "samples.jsonl"]
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                writer.append([sample(1, segment)])
            """
        with child(code, tmp_path) as process:
            output, _ = process.communicate()
        with open_run(tmp_path, manifest(planned=9)) as writer:
            writer.append([sample(2, writer.start_segment("s", WARMUP))])
            done = writer.done

        assert process.returncode == 0
        first, second = output.splitlines()
        for message, name in ((first, "samples.jsonl"), (second, "run.json")):
            assert f"{name}: cannot write" in message and "(File too large)" in message
            assert "nothing recorded so far is lost" in message and "repeat the command to continue" in message
        assert done == {f"mini-math/00{i}" for i in range(3)}

    def test_failing_sync(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Samples that the disk does not confirm are taken back; where that fails too, nothing is written any more."""

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        with open_run(tmp_path, manifest()) as writer:
            segment = writer.start_segment("s0", WARMUP)
            writer.append([sample(0, segment)])
            before = content(tmp_path)
            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", fail)
                with pytest.raises(RecordError, match=r"samples\.jsonl: cannot write samples \(Input/output error\)"):
                    writer.append([sample(1, segment)])
            assert content(tmp_path) == before
            with pytest.raises(RecordError, match="cannot write samples"):
                writer.append([sample(1, segment)])
            assert content(tmp_path) == before

    def test_unwritable_folder(self, tmp_path: Path) -> None:
        """A folder that cannot be made or written is named, with what to do."""
        (tmp_path / "file").touch()
        for root in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(RecordError, match=rf"{root}/.*: cannot write there \(.*\); .*--output"):
                open_run(root, manifest())

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_read_only_folder(self, tmp_path: Path) -> None:
        """A read-only folder is named, with what to do."""
        tmp_path.chmod(0o500)
        with pytest.raises(RecordError, match=rf"{tmp_path}/.*: cannot write there \(Permission denied\)"):
            open_run(tmp_path, manifest())
