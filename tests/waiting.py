"""Waiting for what another thread or process does, and ports that it can be given."""

import socket
import time
from collections.abc import Callable


def until(
    condition: Callable[[], object], what: str | Callable[[], str] = "it to happen", *, patience_s: float = 180.0
) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it was not in time; says `what` was waited for.
    """
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience_s:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.01)


def unused_port() -> int:
    """A port on loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
