"""What a process that serves many clients asks of its system."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys

from plait.system.machine import mallopt

if sys.platform != "win32":
    import resource

_M_ARENA_MAX, _ARENAS = -8, 2  # malloc.h
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_MADV_POPULATE_READ = 22  # asm-generic/mman-common.h, from Linux 5.14 on


def share_memory_between_threads() -> None:
    """Let all threads allocate from a few malloc arenas (glibc only); each keeps its peak, a tenth of a busy server."""
    mallopt({_M_ARENA_MAX: _ARENAS})


def allow_open_files(wanted: int) -> int:
    """Raise this process's limit on open files as far as the system allows; the result, or `wanted` if it has none."""
    if sys.platform == "win32":
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # macOS has a lower limit besides the hard one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft


def begin_to_store(descriptor: int, offset: int, size: int) -> None:
    """A hint to begin writing a part of a file (in bytes), so that a later fsync waits less (Linux only)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):
            part = ctypes.c_int64(offset), ctypes.c_int64(size)
            ctypes.CDLL(None).sync_file_range(descriptor, *part, _SYNC_FILE_RANGE_WRITE)


def map_file(descriptor: int) -> memoryview | None:
    """A whole file mapped into memory, once all of it has been read; None if it must be read instead.

    Valid even after the file is deleted; it must not be written to meanwhile.
    """
    if sys.platform != "linux":
        return None
    try:
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        # An unreadable page is an error here; touching it later would kill the process.
        mapped.madvise(_MADV_POPULATE_READ)
    except (OSError, ValueError):
        return None
    return memoryview(mapped)
