"""A limit on what one piece of work may allocate, for what is read from files of strangers."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Generator
from pathlib import Path


class _MemoryLimit:
    """The limit of this process while blocks of `memory_limit` run; there is one for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = (0, 0)

    def begin(self, most_bytes: int) -> None:
        import resource

        with self._lock:
            if not self._blocks:
                soft, hard = self._before = resource.getrlimit(resource.RLIMIT_DATA)
                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
                limits = (pages * resource.getpagesize() + most_bytes, soft, hard)
                limit = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
            self._blocks += 1

    def end(self) -> None:
        import resource

        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                resource.setrlimit(resource.RLIMIT_DATA, self._before)


@contextlib.contextmanager
def memory_limit(most_bytes: int) -> Generator[None]:
    """Let this process allocate only so much more while the block runs (Linux only; elsewhere nothing happens).

    An allocation beyond it fails with `MemoryError` or a library's own error, in whichever thread asks for it, instead
    of having the system kill the process. What an allocator has reserved before does not count, such as Arrow's
    gigabyte. Blocks that overlap share the limit of the first. Takes some tens of microseconds.
    """
    if sys.platform != "linux":
        yield
        return
    _LIMIT.begin(most_bytes)
    try:
        yield
    finally:
        _LIMIT.end()


_LIMIT = _MemoryLimit()
