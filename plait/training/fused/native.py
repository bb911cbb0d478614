"""The compiled kernels: the files of `SOURCES`, built by the machine's own compiler; where that fails, torch computes.

Knows nothing of what the kernels compute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch

from plait.compiler import built_library, source_in

SOURCES = ("kernels.cpp", "low_rank.cpp", "attention.cpp")
"""One translation unit, in this order."""
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}


@lru_cache(maxsize=1)
def native_library(progress: Callable[[str], None] = lambda _: None) -> ctypes.CDLL | None:
    """The library of the kernels, None where it cannot be built; `progress` is told if it is compiled first."""
    return built_library(source_in(Path(__file__).parent, SOURCES), progress)


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
