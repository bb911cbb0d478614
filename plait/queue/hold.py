"""Who serves a federation: one process at a time, until it has closed everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from plait.errors import ConfigError
from plait.files import cannot_write, lock

HOLD_FILE = "server.lock"
_LOOK_S = 0.05


@contextmanager
def held(directory: Path, *, wait: bool = False, on_wait: Callable[[], None] = lambda: None) -> Generator[None]:
    """Hold a federation's directory while the block runs.

    Args:
        directory: of the federation; made if missing.
        wait: whether to wait for the end of the process that holds it.
        on_wait: called once if there is such a process.

    Raises:
        ConfigError: another process holds it, and is not waited for.
        MachineError: cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (directory / HOLD_FILE).open("ab", buffering=0)
    except OSError as error:
        raise cannot_write(directory / HOLD_FILE, error, doing="open") from error
    with file:
        if not lock(file):
            if not wait:
                raise ConfigError(
                    f"another server serves '{directory}', expected none; --take-over waits until it has ended"
                )
            on_wait()
            while not lock(file):
                time.sleep(_LOOK_S)
        yield
