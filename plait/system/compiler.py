"""Compiled code: C++ that the machine's own compiler builds at first use, kept in the cache.

A Flower App Bundle carries no ``.cpp``, so the bundle has ``cpp.json`` beside them instead, which `make kernels` packs.
Without a working compiler there is the library that a wheel for one system brings along, or else none: then the caller
computes in another way.
"""

import ctypes
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plait.errors import MachineError, PlaitError
from plait.system.files import cache_directory, is_ours, make_private_directory, others_can_change, write_atomically
from plait.system.machine import cpu_features

POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
"""Types of arguments; all functions give an integer, or nothing."""
PACKED = "cpp.json"
"""Beside C++ files: the same as a list of texts."""

# The compiler's. Numbers are taken for finite so that minima and maxima are single instructions; the kernels carry NaN
# by hand.
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-ffinite-math-only", "-fno-signed-zeros",
)  # fmt: skip
_WIDE = ("-mprefer-vector-width=512",)  # compilers shy away from full vectors, which pay here
_PARALLEL = ("-fopenmp",)
_BUILD_TIMEOUT_S = 120
_SHIPPED_NEED = frozenset({"avx2", "bmi2", "f16c", "fma"})
_LOGGER = logging.getLogger(__name__)


def source_in(folder: Path, names: Sequence[str]) -> str:
    """The C++ of some files, one translation unit in this order; their folder in a Flower App Bundle holds `PACKED`."""
    if (folder / names[0]).exists():
        return "".join((folder / name).read_text() for name in names)
    return "".join(json.loads((folder / PACKED).read_text()))


def built_functions(
    folder: Path, names: Sequence[str], arguments: Mapping[str, Sequence[type[ctypes.c_void_p | ctypes.c_int64]]]
) -> ctypes.CDLL | None:
    """As `built_library`, of the C++ in some files (`source_in`), with the types of its functions' arguments."""
    built = built_library(source_in(folder, names))
    for name, types in arguments.items() if built else ():
        function = getattr(built, name)
        function.argtypes, function.restype = types, INTEGER
    return built


def addresses(*arrays: NDArray[np.generic]) -> list[int]:
    """Where arrays are, for a call of compiled code; they have to stay meanwhile."""
    return [array.__array_interface__["data"][0] for array in arrays]  # array.ctypes keeps it until collected


def built_library(code: str, progress: Callable[[str], None] = lambda _: None) -> ctypes.CDLL | None:
    """The library of some C++, built if this machine has not built it before; None where it cannot be."""
    compiler = next(filter(None, (shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++"))), None)
    if compiler is not None:
        wide = _WIDE if "avx512f" in cpu_features() else ()
        for flags in ((*FLAGS, *wide, *_PARALLEL), FLAGS):
            try:
                return ctypes.CDLL(str(_built(compiler, flags, code, progress)))
            except (OSError, PlaitError, subprocess.SubprocessError):
                continue
    shipped = _shipped(code)
    if shipped is None:
        _warn_no_compiler()
    return shipped


def _shipped(code: str) -> ctypes.CDLL | None:
    """The same as a wheel of this system has it (`kernels_hook.py`); None without, or on an older processor."""
    if platform.machine() == "x86_64" and _SHIPPED_NEED - cpu_features():
        return None
    try:
        return ctypes.CDLL(str(Path(__file__).parent / "built" / f"{hashlib.sha256(code.encode()).hexdigest()}.so"))
    except OSError:
        return None


@cache
def _warn_no_compiler() -> None:
    _LOGGER.warning("no C++ compiler works here, so plait computes the same without compiled code, slower; install g++")


def _built(compiler: str, flags: tuple[str, ...], code: str, progress: Callable[[str], None]) -> Path:
    # The build fits one CPU: a cache that several machines share holds one for each.
    about = "\n".join((compiler, *flags, platform.machine(), *sorted(cpu_features())))
    name = hashlib.sha256(about.encode() + code.encode()).hexdigest()
    target = cache_directory() / "kernels" / f"{name}.so"
    if is_ours(target):
        return target
    progress("compiling kernels for this processor (once)")
    make_private_directory(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build.") as folder:
        source, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text(code)
        subprocess.run(
            [compiler, *flags, str(source), "-o", str(made)],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=_BUILD_TIMEOUT_S,
        )
        write_atomically(target, made.read_bytes())
    if wrong := others_can_change(target):
        raise MachineError(f"compiled kernels are not loaded: {wrong}")
    return target
