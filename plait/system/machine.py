"""Facts about this machine, versions that a result depends on, and limits of this process; knows nothing of models."""

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from plait import __version__

if sys.platform != "win32":
    import resource

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_ARENAS = 2
_KEPT_BYTES = 512 << 20
_MAPPED_FROM_BYTES = 32 << 20  # the most that glibc takes
# Of version 2 and 1 of Linux's control groups; a container sees its own.
_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CPUINFO = Path("/proc/cpuinfo")
_WATCHED = ("torch", "transformers", "peft", "flwr", "numpy", "protobuf", "safetensors")


def versions() -> dict[str, str]:
    """Versions of plait, Python and the libraries that a result depends on."""
    found = {"plait": __version__, "python": platform.python_version()}
    for package in _WATCHED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Name of the CPU."""
    return _proc_field(_CPUINFO, "model name") or platform.processor() or platform.machine()


def cores() -> int:
    """CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_features() -> frozenset[str]:
    """The CPU's features, in the kernel's words; empty if they cannot be read."""
    return frozenset((_proc_field(_CPUINFO, "flags") or _proc_field(_CPUINFO, "Features")).split())


def memory_bytes() -> int:
    """Main memory of the machine, or what its container may take of it; 0 if unknown."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    return min((installed, *filter(None, map(_number_in, _CONTAINER_LIMITS))))


def _number_in(path: Path) -> int:
    """The number that a file holds; 0 if it holds none, such as "max"."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdigit() else 0


def peak_rss_bytes() -> int:
    """Peak resident memory of this process so far; 0 if unknown."""
    if sys.platform == "win32":
        return 0
    # Not getrusage on Linux: it inherits the peak of the parent process.
    held = _proc_field(Path("/proc/self/status"), "VmHWM").partition(" ")[0]
    if held.isdigit():
        return 1024 * int(held)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts kilobytes


def keep_freed_memory() -> None:
    """Keep up to 512 MiB of freed memory for the next allocation (glibc only; elsewhere nothing happens).

    A training step allocates and frees the same buffers again and again. Buffers returned to the system in between come
    back as pages to be cleared, which takes one or two per cent of a step of SmolLM2-135M.
    """
    mallopt({_M_TRIM_THRESHOLD: _KEPT_BYTES, _M_MMAP_THRESHOLD: _MAPPED_FROM_BYTES})


def give_back_memory() -> None:
    """Return freed memory to the system (glibc only; elsewhere nothing happens); takes 0.2 ms per megabyte.

    Otherwise a process keeps memory that lies between blocks in use.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def decompose_with_one_thread() -> None:
    """Let numpy's own OpenBLAS decompose with one thread, as the command does, unless the environment sets a number."""
    numpy = sys.modules.get("numpy")
    if numpy and numpy.__file__ and "OPENBLAS_NUM_THREADS" not in os.environ:
        for library in Path(numpy.__file__).parents[1].glob("numpy.libs/libscipy_openblas64_*"):
            ctypes.CDLL(str(library)).scipy_openblas_set_num_threads64_(1)


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


def mallopt(options: Mapping[int, int]) -> None:
    """Set options of malloc (glibc only; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def describe(*, device: str, dtype: str, threads: int) -> Mapping[str, str | int]:
    """The ledger's description of the machine."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "dtype": dtype,
        "threads": threads,
    }


def _proc_field(path: Path, name: str) -> str:
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
