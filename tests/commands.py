"""`plait` in processes of its own that start at once: forked from one that has loaded its libraries already.

Loading them takes six seconds of processor time, more than most runs on the tiny base. What happens while
`plait.cli.main` is imported is tested by tests/plait/cli/test_main.py, tests/plugins and the `original` run of
tests/plait/cli, which start Python itself.
"""

import atexit
import gc
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Self

from tests.unrendered import plots_unrendered

LOADED = (
    "client.node", "matplotlib.backends.backend_agg", "numpy.random", "pandas", "peft", "plait.cli.app",
    "plait.cli.main", "plait.federation", "plait.report.plots", "plait.simulation.execution", "server.nodes_channel",
    "torch", "transformers.models.llama.modeling_llama",
)  # fmt: skip


def resuming(run: Path) -> list[str]:
    """The words that continue a run, and name again what lies outside its directory, as plait itself tells them."""
    from plait.api.received import how_to_resume
    from plait.api.serving import load_serving
    from plait.rounds.run_directory import RunDirectory, recorded_settings

    directory = RunDirectory.find(run)
    return shlex.split(how_to_resume(recorded_settings(directory), load_serving(directory.server)))[1:]


class Command:
    """A running `plait`, or a `program` in Python, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        program: str = "",
    ) -> None:
        self.args = ["plait", *map(str, arguments)]
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout, 1)
        self.stderr, err = (None, os.dup(out)) if stderr == subprocess.STDOUT else _stream(stderr, 2)
        self._status, status = os.pipe()
        asked = {
            "program": program, "arguments": self.args[1:], "cwd": str(cwd or Path.cwd()),
            "env": dict(env or os.environ),
        }  # fmt: skip
        with tempfile.TemporaryFile() as request:
            request.write(json.dumps(asked).encode())
            request.flush()
            socket.send_fds(_parent(), [b"!"], [request.fileno(), status, out, err])
        for descriptor in (status, out, err):
            os.close(descriptor)
        self.pid = int.from_bytes(os.read(self._status, 8), "little")
        assert self.pid, "the process from which commands are forked has ended"

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended; `subprocess.TimeoutExpired` if it has not."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            said = os.read(self._status, 8)
            assert said, "the process from which commands are forked has ended"
            self.returncode = int.from_bytes(said, "little", signed=True)
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """What is left to read of its pipes, once it has ended."""
        streams = [stream for stream in (self.stdout, self.stderr) if stream is not None and not stream.closed]
        texts: dict[IO[str], str] = {}

        def read(stream: IO[str]) -> None:
            texts[stream] = stream.read()

        readers = [threading.Thread(target=read, args=(stream,), daemon=True) for stream in streams]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader, stream in zip(readers, streams, strict=True):
            reader.join()
            stream.close()
        return tuple(texts.get(stream) if stream is not None else None for stream in (self.stdout, self.stderr))

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def run_command(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    program: str = "",
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `plait` to its end; gives its exit status and all that it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = Command(*arguments, cwd=cwd, env=env, stdout=out, stderr=err, program=program)
        try:
            code = command.wait(timeout)
        finally:
            command.kill()
        texts = [os.pread(file.fileno(), 1 << 26, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(command.args, code, *texts)


def said_by(*arguments: object) -> str:
    """What `plait` prints that ends well."""
    done = run_command(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed_after(
    lines: int, program: str, *arguments: object, before: Callable[[Command], None] = lambda _: None
) -> list[str]:
    """Run Python, and kill it (SIGKILL) once it has printed so many lines, which are returned, after `before`."""
    with Command(*arguments, program=program, stdout=subprocess.PIPE) as process:
        said = [process.stdout.readline() for _ in range(lines)]
        before(process)
        process.kill()
    return said


def _stream(wanted: IO[bytes] | int | None, own: int) -> tuple[IO[str] | None, int]:
    """What to read here, and what to write there."""
    if wanted == subprocess.PIPE:
        reading, writing = os.pipe()
        return os.fdopen(reading, encoding="utf-8"), writing
    if wanted == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    return None, os.dup(own if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno())


@cache
def _parent() -> socket.socket:
    """Leads to the process from which all commands of this one are forked."""
    near, far = socket.socketpair()
    with far:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands", str(far.fileno())], cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[far.fileno()],
        )  # fmt: skip

    def end() -> None:
        near.close()
        process.wait()

    atexit.register(end)
    return near


def _fork_what_is_asked_for(near: socket.socket) -> Mapping[str, object] | None:
    """Fork a process for each request, until no one is left to ask (None); returns the request in each of them."""
    running: dict[int, int] = {}  # where to say how a process ended, by its pid
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        ready = select.select([near, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 512)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with suppress(BrokenPipeError), os.fdopen(running.pop(pid), "wb") as saying:
                        saying.write(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))
        if near not in ready:
            continue
        message, descriptors, *_ = socket.recv_fds(near, 1, 4)
        if not message:
            return None
        request, saying, out, err = descriptors
        pid = os.fork()
        if pid:
            running[pid] = saying
            os.write(saying, pid.to_bytes(8, "little"))
            for descriptor in (request, out, err):
                os.close(descriptor)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(out, 1)
        os.dup2(err, 2)
        near.close()
        for descriptor in (woken, wake, saying, out, err, *running.values()):
            os.close(descriptor)
        with os.fdopen(request) as file:
            file.seek(0)
            return json.load(file)


def _main() -> None:
    near = socket.socket(fileno=int(sys.argv[1]))
    near.set_inheritable(False)
    for name in LOADED:
        importlib.import_module(name)
    # What is there is there in all processes; a collector that looks at it would copy its pages.
    gc.collect()
    gc.freeze()
    # In all processes, to their ends.
    with plots_unrendered():
        asked = _fork_what_is_asked_for(near)
        if asked is not None:
            _run(asked)


def _run(asked: Mapping[str, object]) -> None:
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if asked["program"]:
        sys.argv = ["-c", *asked["arguments"]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(asked["program"], "<string>", "exec"), module.__dict__)
        return
    # As `python -m plait.cli.main` has it: a message names the program by it.
    main = sys.modules["__main__"] = sys.modules["plait.cli.main"]
    sys.argv = [main.__file__, *asked["arguments"]]
    main.main()


if __name__ == "__main__":
    _main()
