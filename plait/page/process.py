"""A process beside the command: no run waits for it, and it ends with the command, however that ends.

It is one of plait's modules, run as ``python -m MODULE ARGUMENTS LINE``; LINE is the number of the socket that leads to
the server, or -1. That the command is over, or gone, it learns from its standard input, which ends. Knows nothing of
what the process does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from plait.page.line import Desk, Line, answering

_END_S = 5
"""Seconds that the process has to end by itself."""


@contextlib.contextmanager
def process_beside(
    module: str,
    *arguments: str,
    desk: Desk | None,
    inherited: Sequence[int] = (),
) -> Generator[None]:
    """Run a module as long as the block runs.

    Args:
        module: of plait.
        arguments: of the command line, before the line's.
        desk: answers what the process asks of the server; None for no line.
        inherited: numbers of files that the process inherits.
    """
    with contextlib.ExitStack() as stack:
        files, line = [*inherited], -1
        if desk is not None:
            here, there = Pipe()
            stack.enter_context(there)
            files.append(line := there.fileno())
            answering(here, desk)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments, str(line)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=files,
            start_new_session=True,  # Ctrl-C is for the command alone
        )
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        process.kill()
        process.wait()


def line_of(argument: str) -> Line | None:
    """In the process: the line to the server, by the last argument."""
    number = int(argument)
    return Line(Connection(number)) if number >= 0 else None


def when_over(then: Callable[[], object]) -> None:
    """In the process: have something called, in a thread, once the command is over or gone."""

    def wait() -> None:
        sys.stdin.buffer.read()
        then()

    threading.Thread(target=wait, daemon=True).start()
