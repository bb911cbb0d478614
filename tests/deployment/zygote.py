"""A process that has loaded plait's libraries and opened nothing, and forks: `plait` starts in less than a second.

Everything else is as with processes of their own: they have their own memory, sockets and files, and are killed by
SIGKILL. Spoken to in lines of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

_LIBRARIES = (
    "torch", "transformers", "peft", "flwr.app", "grpc", "plait.federation", "plait.api.service", "plait.api.standing",
    "plait.training.local_model", "plait.report", "server.grpc_grid", "client.process", "client.base",
    "client.participant",
)  # fmt: skip


class Zygote:
    """The side that asks; leaving it ends all that it has started."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def plait(self, *arguments: object, folder: Path, output: Path, doomed: str = "") -> Forked:
        """Start `plait`, as `conftest.plait` does."""
        said = {"arguments": list(map(str, arguments)), "folder": str(folder), "output": str(output), "doomed": doomed}
        return Forked(self, self.ask(start=said))

    def ask(self, **said: object) -> int:
        """A question and its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Forked:
    """A process that was forked, with what tests need of `subprocess.Popen`.

    Attributes:
        returncode: as there.
    """

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote, self._pid = zygote, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """As there."""
        if self.returncode is None:
            self.returncode = self._zygote.ask(poll=self._pid)
        return self.returncode

    def wait(self) -> int | None:
        """As there."""
        if self.returncode is None:
            self.returncode = self._zygote.ask(wait=self._pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As there."""
        if self.poll() is None:
            os.kill(self._pid, number)

    def kill(self) -> None:
        """As there."""
        self.send_signal(signal.SIGKILL)


def serve() -> None:
    """The side that forks, until nobody asks any more."""
    from plait.api.apps import add_apps_to_path

    add_apps_to_path()
    for name in _LIBRARIES:
        importlib.import_module(name)
    alive: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            pid = os.fork()
            if pid == 0:
                _become(**asked["start"])
            alive.add(pid)
            answer: int | None = pid
        else:
            (how, pid), *_ = asked.items()
            found, status = os.waitpid(pid, os.WNOHANG if how == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if found else None
            if found:
                alive.discard(pid)
        print(json.dumps(answer), flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _become(*, arguments: list[str], folder: str, output: str, doomed: str) -> NoReturn:
    """Be that process; in the child."""
    status = 70
    try:
        os.chdir(folder)
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(sink, stream)
        random.seed()
        sys.argv = ["plait", *arguments]
        if doomed:
            from doomed import doom  # beside this file

            doom(doomed)
        from plait.cli.main import main

        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
