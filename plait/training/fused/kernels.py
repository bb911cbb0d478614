"""Elementwise steps of a Llama-like decoder, forward and backward, each in one pass over memory.

On a CPU they are compiled, compute in float32 and round once to their arguments' type; elsewhere torch computes them.
"""

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional

from plait.system.compiler import built_library, source_in

SOURCES = ("kernels.cpp", "low_rank.cpp", "attention.cpp")
"""One translation unit, in this order."""
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}


@lru_cache(maxsize=1)
def native_library(progress: Callable[[str], None] = lambda _: None) -> ctypes.CDLL | None:
    """The library of the kernels, None where it cannot be built; `progress` gets a line if it is compiled first."""
    return built_library(source_in(Path(__file__).parent, SOURCES), progress)


def kernel(name: str, arguments: tuple[type, ...], *tensors: torch.Tensor) -> Callable[..., None] | None:
    """The compiled kernel by name and the first tensor's type; None where torch must compute."""
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


Tensor = torch.Tensor

NO_LOGIT = -1e30
"""Below every logit, and finite."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (arXiv 1910.07467): x / rms(x) * weight. x: (rows, width), weight: (width,)."""
    if native := _native("rms_norm", x, weight):
        out = torch.empty_like(x)
        native(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape, eps)
        return out
    return functional.rms_norm(x, weight.shape, weight, eps)


def rms_norm_gradient(x: Tensor, weight: Tensor, grad: Tensor, residual: Tensor, *, eps: float) -> Tensor:
    """Gradient of `rms_norm` in x for an output gradient `grad`, plus `residual`; all (rows, width)."""
    if native := _native("rms_norm_gradient", x, weight, grad, residual):
        out = torch.empty_like(x)
        pointers = (tensor.data_ptr() for tensor in (x, weight, grad, residual, out))
        native(*pointers, *x.shape, eps)
        return out
    return _differentiable_norm(x, weight, eps)[1](grad, residual)


def rms_norm_again(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """`rms_norm`, and `rms_norm_gradient` as a function of `grad` and `residual`, which may share its work."""
    if _native("rms_norm", x, weight):
        return rms_norm(x, weight, eps), partial(rms_norm_gradient, x, weight, eps=eps)
    return _differentiable_norm(x, weight, eps)


def _differentiable_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = functional.rms_norm(leaf, weight.shape, weight.detach(), eps)
    return out.detach(), lambda grad, residual: torch.autograd.grad(out, leaf, grad)[0].add_(residual)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202); all (rows, width)."""
    if native := _native("swiglu", gate, up):
        out = torch.empty_like(gate)
        native(gate.data_ptr(), up.data_ptr(), out.data_ptr(), *gate.shape)
        return out
    return functional.silu(gate).mul_(up)


def swiglu_gradient(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`swiglu` once more, and its gradients in gate and up for an output gradient; all (rows, width)."""
    if native := _native("swiglu_gradient", grad, gate, up):
        out, grad_gate, grad_up = (torch.empty_like(gate) for _ in range(3))
        native(*(tensor.data_ptr() for tensor in (grad, gate, up, out, grad_gate, grad_up)), *gate.shape)
        return out, grad_gate, grad_up
    silu = functional.silu(gate)
    out = silu * up
    grad_gate = grad * up
    torch.ops.aten.silu_backward(grad_gate, gate, grad_input=grad_gate)
    return out, grad_gate, silu.mul_(grad)


def absorb_logits_(logits: Tensor, targets: Tensor, *, first: int, most: Tensor, total: Tensor, hit: Tensor) -> Tensor:
    """Add a slice of a row's logits to its running softmax over all words but the correct one (arXiv 1805.02867).

    `logits` (rows, width), of the words from `first` on, become exp(logits - most), about 0 for the correct word. All
    others are (rows,): targets int64, the correct words; in float32, and updated, `most`, the largest other logit so
    far, `total`, the sum of exp(logit - most), and `hit`, the logit of the correct word. Returns the multiplier (rows,)
    of sums relative to the former `most`.
    """
    if native := _native("absorb_logits", logits, targets, most, total, hit):
        rescale = torch.empty_like(most)
        running = (tensor.data_ptr() for tensor in (most, total, hit, rescale))
        native(logits.data_ptr(), targets.data_ptr(), first, *running, *logits.shape)
        return rescale
    wide = logits.float()
    column = targets - first
    nearest = column.clamp(0, logits.shape[1] - 1)
    here, found = column == nearest, wide.gather(1, nearest[:, None])
    torch.where(here, found[:, 0], hit, out=hit)
    wide.scatter_(1, nearest[:, None], found.masked_fill_(here[:, None], NO_LOGIT))
    greatest = torch.maximum(most, wide.amax(dim=1))
    rescale = torch.exp(most - greatest)
    most.copy_(greatest)
    risen = wide.sub_(greatest[:, None]).exp_()
    total.mul_(rescale).add_(risen.sum(dim=1))
    logits.copy_(risen)
    return rescale


def accumulate_rescaled_(total: Tensor, added: Tensor, rescale: Tensor) -> Tensor:
    """Total * rescale + added, in place. total: (rows, width) float32, added: (rows, width), rescale: (rows,)."""
    if native := _native("accumulate_rescaled", added, total, rescale):
        native(total.data_ptr(), added.data_ptr(), rescale.data_ptr(), *added.shape)
        return total
    return total.mul_(rescale[:, None]).add_(added)


def _native(name: str, *tensors: Tensor) -> Callable[..., None] | None:
    return kernel(name, _ARGUMENTS[name], *tensors)


_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "rms_norm": (_P, _P, _P, _I, _I, _F),
    "rms_norm_gradient": (_P, _P, _P, _P, _P, _I, _I, _F),
    "swiglu": (_P, _P, _P, _I, _I),
    "swiglu_gradient": (_P, _P, _P, _P, _P, _P, _I, _I),
    "absorb_logits": (_P, _P, _I, _P, _P, _P, _P, _I, _I),
    "accumulate_rescaled": (_P, _P, _P, _I, _I),
}


SLICE_ELEMENTS_ON_CPU = 1 << 22
"""Most logits of one slice on a CPU: a few megabytes, which stay in its caches."""
SLICE_ELEMENTS_ON_GPU = 1 << 26
"""Logits of one slice on a device that is no CPU."""
NARROWEST_SLICE = 1024
"""Fewest words of a slice."""


def token_losses(
    x: Tensor,
    norm_weight: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    rows: Tensor,
    *,
    eps: float,
    slice_elements: int = SLICE_ELEMENTS_ON_GPU,
) -> Tensor:
    """Cross-entropy in nats of each row that has a target, (counted,) float32.

    Args:
        x: (rows, width), output of the last block.
        norm_weight: (width,), of the final RMSNorm.
        head_weight: (words, width), frozen.
        targets: (counted,) int64.
        rows: (counted,) int64, the rows of x for the targets; each at most once.
        slice_elements: logits that exist at a time; fewer on a CPU.
    """
    return cast("Tensor", _TokenLosses.apply(x, norm_weight, head_weight, targets, rows, eps, slice_elements))


def head_losses(hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of hidden states that the head reads as they are, (counted,) float32.

    Args:
        hidden: (counted, width).
        head_weight: (words, width), frozen, of the same type.
        targets: (counted,) int64.
    """
    return cast("Tensor", _HeadLosses.apply(hidden, head_weight, targets))


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        loss, grad = _losses(hidden, head_weight, targets, slice_elements=SLICE_ELEMENTS_ON_GPU, with_gradient=wanted)
        if grad is not None:
            ctx.save_for_backward(grad.to(hidden.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_outputs[0][:, None].to(grad.dtype), None, None


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        head_weight: Tensor,
        targets: Tensor,
        rows: Tensor,
        eps: float,
        slice_elements: int,
    ) -> Tensor:
        chosen = x if len(rows) == len(x) else x.index_select(0, rows)
        hidden = rms_norm(chosen, norm_weight, eps)
        loss, grad = _losses(
            hidden, head_weight, targets, slice_elements=slice_elements, with_gradient=ctx.needs_input_grad[0]
        )
        if grad is not None:
            ctx.save_for_backward(chosen, norm_weight, grad, rows)
            ctx.eps, ctx.rows = eps, len(x)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        chosen, norm_weight, grad, rows = ctx.saved_tensors
        grad_hidden = (grad * grad_outputs[0][:, None]).to(chosen.dtype)
        nothing = torch.zeros_like(chosen)
        grad_x = rms_norm_gradient(chosen, norm_weight, grad_hidden, nothing, eps=ctx.eps)
        if ctx.rows != len(rows):
            grad_x = grad_x.new_zeros(ctx.rows, grad_x.shape[1]).index_copy_(0, rows, grad_x)
        return grad_x, None, None, None, None, None, None


def _losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, slice_elements: int, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses of (counted, width) hidden states, and their gradients, (counted, width) float32."""
    counted, words = len(hidden), weight.shape[0]
    most = torch.full((counted,), NO_LOGIT, device=hidden.device)
    # The first slice's rescaling is exp(NO_LOGIT - most) = 0: sums start at zero.
    total, hit = torch.zeros_like(most), torch.zeros_like(most)
    grad = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if with_gradient else None
    elements = min(SLICE_ELEMENTS_ON_CPU, slice_elements) if hidden.device.type == "cpu" else slice_elements
    width = min(words, max(NARROWEST_SLICE, elements // max(1, counted)))
    buffer = hidden.new_empty(counted * width)
    for first in range(0, words, width):
        part = weight[first : first + width]
        logits = torch.mm(hidden, part.t(), out=buffer[: counted * len(part)].view(counted, len(part)))
        rescale = absorb_logits_(logits, targets, first=first, most=most, total=total, hit=hit)
        if grad is not None:
            accumulate_rescaled_(grad, logits @ part, rescale)
    # How far all others together are ahead of the correct word; NaN if its logit is infinite.
    ahead = most + total.log() - hit + (hit - hit)
    if grad is not None:
        others = ahead.sigmoid()  # their probability
        grad.mul_((others / total)[:, None]).addcmul_(weight.index_select(0, targets), others[:, None], value=-1)
    return functional.softplus(ahead), grad
