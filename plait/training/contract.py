"""What losses must do; `plait check-plugin` runs these on a user's own, tests on plait's."""

from __future__ import annotations

import torch

from plait.own_code import BrokenError, Check
from plait.training.local_loss import LocalAdapter, LocalLoss, loss_named

_LABELS, _WORDS = 12, 20


def _inputs(labels: int = _LABELS) -> tuple[torch.Tensor, torch.Tensor, LocalAdapter]:
    generator = torch.Generator().manual_seed(3)
    logits, teacher = (torch.randn(_LABELS, _WORDS, generator=generator)[:labels] for _ in range(2))
    words = torch.randint(_WORDS, (_LABELS,), generator=generator)[:labels]
    shapes = {"base_model.model.q_proj.lora_A.weight": (2, 8), "base_model.model.q_proj.lora_B.weight": (8, 2)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    received = {name: tensor.clone() for name, tensor in tensors.items()}
    trained = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    return logits.requires_grad_(), words, LocalAdapter(trained, received, lambda: teacher)


def _one_number(loss: LocalLoss) -> None:
    logits, labels, adapter = _inputs()
    found = loss(logits, labels, adapter)
    if found.dim() or not torch.isfinite(found):
        raise BrokenError(f"gave shape {tuple(found.shape)}, expected one finite number")
    found.backward()
    gradients = [tensor.grad for tensor in (logits, *adapter.tensors.values()) if tensor.grad is not None]
    if not gradients or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        raise BrokenError("no finite gradient reaches logits or adapter")


def _sum(loss: LocalLoss) -> None:
    whole, half = (float(loss(*_inputs(labels)).detach()) for labels in (_LABELS, _LABELS // 2))
    if whole and abs(whole) < 1.2 * abs(half):
        raise BrokenError(f"{_LABELS} labels give {whole:.3g} and half of them {half:.3g}, expected a sum, not a mean")


def mean_note(text: str) -> str:
    """What to tell a user whose own loss, named by its setting, is a mean; empty for any other."""
    loss = loss_named(text)
    try:
        if loss is not None:
            _sum(loss)
    except BrokenError as error:
        return f"loss '{text}' learns next to nothing unless it is a sum over the labels: {error}"
    except Exception:  # it may want other inputs than the check's
        return ""
    return ""


def _same(loss: LocalLoss) -> None:
    if float(loss(*_inputs()).detach()) != float(loss(*_inputs()).detach()):
        raise BrokenError("the same inputs give a different loss")


LOSS_CHECKS: tuple[Check[LocalLoss], ...] = (
    Check("one finite number with finite gradients", _one_number),
    Check("a sum over the labels", _sum),
    Check("the same inputs give the same loss", _same),
)
"""The contract of a local loss."""
