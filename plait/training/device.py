"""The compute of this machine: its devices, how fast one multiplies, what of one a process takes, the base's data type.

Adapters stay in float32 everywhere.
"""

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from plait.errors import ConfigError, did_you_mean
from plait.system.machine import cpu_features

_HALVES_SINCE = (5, 3)  # compute capability from which on CUDA computes in float16
_METAL_BFLOAT16_SINCE = (14, 0)  # version of macOS from which on Metal has bfloat16, on every Apple GPU
CONTEXT_BYTES = 500_000_000
"""What CUDA itself takes of a GPU for each process."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device and types of one process; `dtype` is that of the base's weights and activations."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """The data type as users write it."""
        return str(self.dtype).removeprefix("torch.")

    def attention(self, seq_len: int) -> str:
        """The attention implementation for transformers: at short lengths on a CPU the plain one is fastest."""
        return "eager" if self.device.type == "cpu" and seq_len <= 512 else "sdpa"


def choose_compute(device: str = "auto", dtype: str = "auto") -> Compute:
    """Device and data type by what the machine has, unless given; ConfigError if it lacks them, or for a list."""
    if "," in device:
        raise ConfigError(f"device is '{device}', a list, expected one device here")
    if dtype != "auto" and dtype not in DTYPES:
        expected = ", ".join(("auto", *DTYPES))
        raise ConfigError(f"dtype is '{dtype}', expected one of {expected}{did_you_mean(dtype, DTYPES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device is '{device}', expected auto, cpu, cuda, cuda:N or mps") from error
    name = f"cuda:{chosen.index or 0}" if chosen.type == "cuda" else chosen.type
    if name not in (present := _present()):
        raise ConfigError(f"device is '{device}', but this machine has none; expected one of {', '.join(present)}")
    return Compute(chosen, DTYPES[dtype] if dtype != "auto" else _fastest(chosen))


def choose_devices(devices: str = "auto", dtype: str = "auto") -> tuple[Compute, ...]:
    """The devices of a list such as ``cuda:0,cuda:1``; one named several times is shared (`shares`)."""
    chosen = tuple(choose_compute(name, dtype) for name in device_names(devices))
    types = {each.dtype_name: None for each in chosen}
    if len(types) > 1:
        raise ConfigError(
            f"device is '{devices}', whose fastest types are {' and '.join(types)}, expected one type: give --dtype too"
        )
    return chosen


def one_base_over(devices: str, dtype: str = "auto") -> tuple[Compute, tuple[torch.device, ...]]:
    """The device that a client computes on; of a list of GPUs the first, and the others with a part of its base."""
    chosen = choose_devices(devices, dtype)
    first, *others = (each.device for each in chosen)
    if others and (len({first, *others}) <= len(others) or any(each.type != "cuda" for each in (first, *others))):
        raise ConfigError(f"device is '{devices}', expected different GPUs, such as cuda:0,cuda:1, or a single device")
    return chosen[0], tuple(others)


def device_names(devices: str) -> tuple[str, ...]:
    """The entries of a list of devices; looks at no device."""
    if "," not in devices:
        return (devices,)
    names = tuple(name.strip() for name in devices.split(","))
    for name in names:
        if name in ("", "auto"):
            raise ConfigError(
                f"device is '{devices}' with '{name}' in the list, expected devices by name, such as cuda:0,cuda:1"
            )
    # What there is one of, or of which it is the first, has two names.
    return tuple({"cuda": "cuda:0", "cpu:0": "cpu", "mps:0": "mps"}.get(name, name) for name in names)


def check_four_bits(device: str) -> None:
    """Refuse a type of device that cannot hold a base in four bits, or a machine without bitsandbytes."""
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"method is 'qlora' on device '{device}', expected cpu or cuda: bitsandbytes has no kernels for it; "
            "nearest: method 'lora'"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "method is 'qlora', but bitsandbytes is not installed, expected `pip install 'plait[qlora]'`; nearest: "
            "method 'lora'"
        )


def _fastest(device: torch.device) -> torch.dtype:
    """The type of two bytes that a device multiplies in hardware, bfloat16 before float16; float32 without one."""
    if bfloat16_is_fast(device):
        return torch.bfloat16
    if device.type == "mps" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= _HALVES_SINCE):
        return torch.float16
    return torch.float32


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(*_METAL_BFLOAT16_SINCE)
    return any(feature in cpu_features() for feature in ("avx512_bf16", "amx_bf16", "bf16"))


def device_of(model: nn.Module) -> torch.device:
    """The device that a model computes on: its last parameter's, since the first, an embedding, may lie on the host."""
    *_, last = model.parameters()
    return last.device


def has_memory_of_its_own(device: torch.device) -> bool:
    """Whether what lies in the host's memory takes none of the device's: a card's, but not a board's or a Mac's."""
    return device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated


def use_threads(threads: int, *, processes: int = 1) -> int:
    """Set the number of CPU threads and return it; 0 for a part of torch's default, divided among `processes`."""
    default = _default_threads()  # asked before anything is set
    wanted = threads or max(1, default // processes)
    if threads or torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


@cache
def _default_threads() -> int:
    return torch.get_num_threads()


def memory_for_steps(device: torch.device, limit_bytes: int = 0) -> int:
    """Memory of a device that this process may use in all, what it already has included; 0 if unknown."""
    there = 0
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        there = free + torch.cuda.memory_reserved(device)
    elif device.type == "mps":
        there = torch.mps.recommended_max_memory()
    return min(there or limit_bytes, limit_bytes or there)


def _present() -> list[str]:
    cards = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return ["cpu", *(f"cuda:{index}" for index in cards), *(["mps"] if torch.backends.mps.is_available() else [])]


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
