"""CUDA devices that are none: plait's real code on tensors that say `cuda:0` or `cuda:1`, compute on the CPU, and
refuse to be mixed with tensors of the CPU or of the other device, as a GPU does.

`install()` must be called before torch is imported: torch's first look at its devices decides. What is not proven this
way: speed, asynchrony, numerics of CUDA's kernels, and libraries with CUDA code of their own, bitsandbytes among them.
"""

import ctypes
import importlib.util
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.pretend.varlen import plain_varlen

# What autograd asks of a device in a torch that was built without one: a guard, and hooks that say that it is there.
_SOURCE = r"""
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct PretendGuard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, getDevice()); }
  DeviceIndex deviceCount() const noexcept override { return 2; }
  Stream exchangeStream(Stream) const noexcept override { return getStream(getDevice()); }
};
C10_REGISTER_GUARD_IMPL(CUDA, PretendGuard)
struct PretendHooks final : at::CUDAHooksInterface {
  PretendHooks(at::CUDAHooksArgs) {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  DeviceIndex deviceCount() const override { return 2; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
};
namespace at { C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, PretendHooks) }
"""
# What lets two devices meet, and what CUDA lets meet tensors of the CPU: indices.
_COPIES = frozenset(["copy_", "_to_copy", "to"])
_MAY_MIX = _COPIES | {"index", "index_put", "index_put_", "_index_put_impl_"}
MEMORY_BYTES = 80_000_000_000
"""Memory that the device says it has."""


def build(folder: Path) -> Path:
    """Compile the device guard with torch's headers."""
    found = importlib.util.find_spec("torch")
    assert found
    assert found.origin
    root, library = Path(found.origin).parent, folder / "pretend_cuda.so"
    options = ["-std=c++20", "-O0", "-fPIC", "-shared", f"-I{root}/include", f"-L{root}/lib", f"-Wl,-rpath,{root}/lib"]
    subprocess.run(
        ["c++", *options, "-xc++", "-", "-o", str(library), "-lc10", "-ltorch_cpu"],
        input=_SOURCE.encode(), check=True, capture_output=True,
    )  # fmt: skip
    return library


def install(library: Path) -> Any:
    """Load the guard and torch, and return the mode under which `device="cuda"` makes pretended tensors."""
    assert "torch" not in sys.modules, "torch has looked at its devices already"
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
    from torch.utils._pytree import tree_leaves, tree_map

    # Before the device is there, so that it does not look for its own CUDA code.
    if importlib.util.find_spec("bitsandbytes") is not None:
        importlib.import_module("bitsandbytes")
    cpu, copies = torch.device("cpu"), ("_to_copy", "to")

    class OnCuda(torch.Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl

        @staticmethod
        def __new__(cls, held, number):
            made = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=f"cuda:{number}"
            )
            made.held = held
            return made

        def __tensor_flatten__(self):
            return ["held"], self.device.index

        @staticmethod
        def __tensor_unflatten__(inner, number, *_):
            return OnCuda(inner["held"], number)

        def __deepcopy__(self, memo):
            made = OnCuda(self.held.clone(), self.device.index)
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made
            return made

        def data_ptr(self):
            return self.held.data_ptr()

        def tolist(self):
            return self.held.tolist()

        def numpy(self, **_):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            return dispatch(function, args, kwargs or {})

    def held_by(leaf):
        if isinstance(leaf, torch.device):
            return cpu if leaf.type == "cuda" else leaf
        return leaf.held if isinstance(leaf, OnCuda) else leaf

    def dispatch(function, args, kwargs):
        name = function._schema.name.partition("::")[2]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        numbers = {x.device.index for x in given if isinstance(x, OnCuda) and x.dim()}
        on_device = any(isinstance(x, OnCuda) for x in given)
        if len(numbers) > 1 and name not in _COPIES:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, got cuda:0 and cuda:1")
        if on_device and name not in _MAY_MIX and any(x.dim() and not isinstance(x, OnCuda) for x in given):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, got cuda:0 and cpu")
        # `Tensor.to` under inference mode has it among its arguments.
        devices = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
        goes = devices[0].type == "cuda" if devices else on_device
        number = next((x.device.index for x in given if isinstance(x, OnCuda)), 0)
        if goes and devices:
            number = devices[0].index or 0
        elif numbers:
            (number, *_) = numbers
        if name == "copy_":
            goes, number = isinstance(args[0], OnCuda), args[0].device.index
        held = tree_map(held_by, (args, kwargs))
        out = function(*held[0], **held[1])
        if not goes:
            return args[0] if name == "copy_" else out
        # A copy to the device is never the same memory.
        out = tree_map(
            lambda x: OnCuda(x.clone() if name in copies else x, number) if type(x) is torch.Tensor else x, out
        )
        return return_and_correct_aliasing(function, args, kwargs, out) if on_device and name not in copies else out

    class Cuda(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return dispatch(function, args, kwargs or {})

    properties = SimpleNamespace(name="Pretended GPU", total_memory=MEMORY_BYTES, major=9, minor=0, is_integrated=False)
    nothing = ("_lazy_init", "set_device", "set_rng_state", "manual_seed_all", "manual_seed",
               "reset_peak_memory_stats", "set_per_process_memory_fraction", "synchronize", "empty_cache")  # fmt: skip
    answers = {
        **dict.fromkeys(nothing),
        **dict.fromkeys(("current_device", "memory_reserved", "memory_allocated", "max_memory_allocated"), 0),
        "is_available": True,
        "device_count": 2,
        "device": nullcontext(),
        "get_device_name": properties.name,
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
        "get_rng_state": torch.zeros(1),
        "mem_get_info": (MEMORY_BYTES, MEMORY_BYTES),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    # Sequences of several lengths then take one call, as they do on a card.
    torch.backends.cuda.can_use_flash_attention = lambda *_: True
    importlib.import_module("torch.nn.attention.varlen").varlen_attn = plain_varlen
    torch.Tensor.pin_memory = lambda held, *_: held  # only CUDA's own library pins
    torch.inference_mode = torch.no_grad  # a tensor that wraps another cannot be a view under it
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=…)` then goes through the mode
    return Cuda
