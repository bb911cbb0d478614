"""Cross-entropy of a language model's head without ever holding all logits.

The vocabulary is processed in slices: each slice's logits enter a running softmax (arXiv 1805.02867), and if a gradient
is needed, exp(logits) goes straight back through the head's weight, rescaled as the running maximum rises (as
FlashAttention does over keys, arXiv 2205.14135). So the head's two products are computed once each, in the forward
pass, and memory is one slice. The correct word is left out of both: its part of the gradient follows from the others',
and beside a small loss it would cancel them, digit by digit. Rows without a target are left out first. Knows nothing of
models.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn import functional

from plait.training.fused.kernels import (
    NO_LOGIT,
    absorb_logits_,
    accumulate_rescaled_,
    rms_norm,
    rms_norm_gradient,
)

Tensor = torch.Tensor

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
    """Cross-entropy in nats of each row that has a target.

    Args:
        x: (rows, width), output of the last block.
        norm_weight: (width,), of the final RMSNorm.
        head_weight: (words, width), frozen.
        targets: (counted,) int64.
        rows: (counted,) int64, the rows of x for the targets; each at most once.
        eps: of the norm.
        slice_elements: logits that exist at a time; fewer on a CPU.

    Returns:
        (counted,) float32
    """
    return cast("Tensor", _TokenLosses.apply(x, norm_weight, head_weight, targets, rows, eps, slice_elements))


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
