"""What a machine's devices are, how fast one multiplies, and what of one a process takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from plait.training.device import Compute

CONTEXT_BYTES = 500_000_000
"""What CUDA itself takes of a GPU for each process."""


def shares(devices: Sequence[Compute]) -> tuple[int, ...]:
    """By entry of a list, into how many parts its device is divided: how often the list names it."""
    counts = Counter(each.device for each in devices)
    return tuple(counts[each.device] for each in devices)


def gpus() -> tuple[tuple[str, int], ...]:
    """Name and memory in bytes of every CUDA device."""
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return tuple((properties.name, properties.total_memory) for properties in found)


def limit_memory(device: torch.device, limit_bytes: int) -> None:
    """Let this process allocate at most this much of a CUDA device, which alone torch can limit; 0 is no limit."""
    if limit_bytes and device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)


def take_share(device: torch.device, parts: int) -> int:
    """Compute on this device with one of `parts` shares of it; bytes of the share, 0 for all or unknown."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    part = 0
    if parts > 1 and device.type == "cuda":
        _, there = torch.cuda.mem_get_info(device)
        part = max(1, there // parts - CONTEXT_BYTES)
    elif parts > 1 and device.type == "mps":
        part = torch.mps.recommended_max_memory() // parts
    limit_memory(device, part)
    return part


def matrix_gflops(compute: Compute, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Billions of operations per second in a matrix product of the base's type; the best of several tries."""
    side = {"cuda": 8192, "mps": 4096}.get(compute.device.type, 0)
    rows, inner, columns = (side, side, side) if side else (512, 1024, 2048)
    left = torch.randn(rows, inner, device=compute.device, dtype=compute.dtype)
    right = torch.randn(inner, columns, device=compute.device, dtype=compute.dtype)
    product = left @ right
    best = 0.0
    for _ in range(8):
        started = clock()
        torch.mm(left, right, out=product)
        synchronize(compute.device)
        best = max(best, 2 * rows * inner * columns / (clock() - started))
    return best / 1e9


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
