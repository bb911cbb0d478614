"""The compiled kernels: the files of `SOURCES`, built at first use and kept in the cache.

A Flower App Bundle carries no ``.cpp`` (flwr admits Python, TOML, Markdown, YAML and JSON only), so the bundle has
``cpp.json`` instead, which `make kernels` packs from these files. The machine's own C++ compiler builds them. Where
there is none, or it fails, there is no library, and torch computes.
Knows nothing of what the kernels compute.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch

from plait.data.cache import cache_directory
from plait.errors import MachineError, PlaitError
from plait.files import is_ours, make_private_directory, others_can_change, write_atomically
from plait.training.device import cpu_features

SOURCES = ("kernels.cpp", "low_rank.cpp", "attention.cpp", "few_bits.cpp")
"""One translation unit, in this order."""
PACKED = "cpp.json"
"""The same as a list of texts."""
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}

# The compiler's. Numbers are taken for finite so that minima and maxima are single instructions; the kernels carry NaN
# by hand.
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-ffinite-math-only", "-fno-signed-zeros",
)  # fmt: skip
_WIDE = ("-mprefer-vector-width=512",)  # compilers shy away from full vectors, which pay here
_PARALLEL = ("-fopenmp",)
_BUILD_TIMEOUT_S = 120


def kernel_source(folder: Path = Path(__file__).parent) -> str:
    """The C++ of all kernels.

    Args:
        folder: holds `SOURCES`, or in a Flower App Bundle `PACKED`.
    """
    if (folder / SOURCES[0]).exists():
        return "".join((folder / name).read_text() for name in SOURCES)
    return "".join(json.loads((folder / PACKED).read_text()))


@lru_cache(maxsize=1)
def native_library() -> ctypes.CDLL | None:
    """The library of the kernels; None where it cannot be built."""
    return built_library(kernel_source())


def built_library(code: str) -> ctypes.CDLL | None:
    """The library of some C++, built if this machine has not built it before; None where it cannot be."""
    compiler = next(filter(None, (shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++"))), None)
    if compiler is None:
        return None
    wide = _WIDE if "avx512f" in cpu_features() else ()
    for flags in ((*FLAGS, *wide, *_PARALLEL), FLAGS):
        try:
            return ctypes.CDLL(str(_built(compiler, flags, code)))
        except (OSError, PlaitError, subprocess.SubprocessError):
            continue
    return None


def kernel(name: str, arguments: tuple[type, ...], *tensors: torch.Tensor) -> Callable[..., None] | None:
    """The compiled kernel for tensors like these, which must be of one type; None where torch must compute.

    Args:
        name: without the suffix of a type, which the first tensor decides.
        arguments: ctypes of its arguments.
        tensors: what it is to read and write.
    """
    suffix = _SUFFIXES.get(tensors[0].dtype)
    if suffix is None or not all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors):
        return None
    return compiled(f"{name}_{suffix}", arguments)


@cache
def compiled(symbol: str, arguments: tuple[type, ...]) -> Callable[..., None] | None:
    """A function of the library that returns nothing."""
    library = native_library()
    if library is None:
        return None
    function = getattr(library, symbol)
    function.argtypes = arguments
    function.restype = None
    return function


def _built(compiler: str, flags: tuple[str, ...], code: str) -> Path:
    # The build fits one CPU: a cache that several machines share holds one for each.
    about = "\n".join((compiler, *flags, platform.machine(), *sorted(cpu_features())))
    name = hashlib.sha256(about.encode() + code.encode()).hexdigest()
    target = cache_directory() / "kernels" / f"{name}.so"
    if is_ours(target):
        return target
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
        write_atomically(target, made.read_bytes(), mode=0o755)
    if wrong := others_can_change(target):
        raise MachineError(f"compiled kernels are not loaded: {wrong}")
    return target
