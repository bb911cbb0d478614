"""Commands that serve over HTTP, each in a process of its own, on any free port."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.commands import Command

Start = Callable[..., tuple[Command, str]]
"""Takes options of the command; gives the process and the address that it says it serves on."""


@contextmanager
def serving(*verb: str) -> Iterator[Start]:
    """Start a verb any number of times; what still runs afterwards is killed."""
    running: list[Command] = []

    def start(*options: object, listen: str = "127.0.0.1:0") -> tuple[Command, str]:
        process = Command(*verb, "--listen", listen, *options, stderr=subprocess.PIPE)
        running.append(process)
        for line in process.stderr:
            if address := re.search(r"on (https?://\S+)", line):
                return process, address[1]
        raise AssertionError(f"plait {' '.join(verb)} has ended")

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate()
