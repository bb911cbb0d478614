"""A classifier's head: everything after the encoder or decoder, trained and sent whole with the adapter.

A base that fills in words or turns a text into a vector has no layer for classes. Every architecture of transformers
adds a linear layer for them, and a third of them one below it (RoBERTa's ``classifier.dense``, DistilBERT's
``pre_classifier``, DeBERTa's ``pooler``); BERT's ``pooler`` is such a layer too, with values from another task or none.
transformers draws the values that a base's files lack anew each time it loads the base. Here they belong to the
adapter: derived from the run's seed, averaged like any other tensor, and part of what is published.

A pooler that the files do have is new as well with methods that train factors: they learn more with it
(simulations/defaults; "Revisiting Few-sample BERT Fine-tuning", arXiv 2006.05987, section 5). Methods of few
parameters, such as IA3, leave it to the base: it would make their adapters many times as large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

NAMED = frozenset({"classifier", "score"})
"""Heads that PEFT saves with every adapter of a classifier."""

_POOLER = "pooler"
_STD = 0.02


def head_modules(model: nn.Module, *, pooler: bool = True) -> frozenset[str]:
    """The names of the modules that are a classifier's head, with the encoder's pooler, if it has one, or without."""
    prefix, backbone = _backbone(model)
    if backbone is None:
        return NAMED
    after = {name: module for name, module in model.named_children() if module is not backbone}
    if pooler and isinstance(last := getattr(backbone, _POOLER, None), nn.Module):
        after[f"{prefix}.{_POOLER}"] = last
    return NAMED | {name for name, module in after.items() if any(True for _ in module.parameters())}


def lacks_pooler(model: nn.Module, stored: AbstractSet[str]) -> bool:
    """Whether the model's encoder has a pooler for which the base's files, with these tensors, have no values."""
    prefix, backbone = _backbone(model)
    pooler = getattr(backbone, _POOLER, None)
    names = [f"{_POOLER}.{name}" for name, _ in pooler.named_parameters()] if isinstance(pooler, nn.Module) else []
    return any(stored.isdisjoint((name, f"{prefix}.{name}")) for name in names)


def draw_heads(adapted: PeftModel, *, seed: int) -> None:
    """Give an adapter's copy of a classifier's head its initial values, in place, the same on every machine.

    The last layer is zero, so that an untrained adapter gives every class the same probability. The layers below it are
    drawn, as BERT's (normal, standard deviation 0.02): were they zero too, no gradient would reach any of them.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = [*_copies(adapted)]
    last = _last_layer(heads)
    for head in heads:
        for module in head.modules():
            is_norm = "norm" in type(module).__name__.lower()
            for name, like in list(module.named_parameters(recurse=False)):
                values = torch.zeros(like.shape, dtype=torch.float32)
                if is_norm and name == "weight":
                    values.fill_(1)
                elif module is not last and like.ndim > 1:
                    values.normal_(0, _STD, generator=generator)
                setattr(module, name, nn.Parameter(values.to(like.dtype), requires_grad=like.requires_grad))


@torch.no_grad()
def silence(model: nn.Module) -> None:
    """Set the last layer of a classifier without an adapter to zero, as an untrained adapter has it; in place."""
    _, backbone = _backbone(model)
    last = _last_layer(module for module in model.children() if module is not backbone)
    for parameter in last.parameters() if last else ():
        parameter.zero_()


def _backbone(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The name of a classifier's encoder or decoder, and itself; None if it has none that transformers names."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    backbone = getattr(model, prefix, None) if prefix else None
    return prefix, backbone if isinstance(backbone, nn.Module) else None


def _copies(adapted: PeftModel) -> Iterator[nn.Module]:
    for module in adapted.modules():
        if isinstance(module, ModulesToSaveWrapper):
            yield module.modules_to_save["default"]


def _last_layer(heads: Iterable[nn.Module]) -> nn.Module | None:
    """The layer whose outputs are the classes."""
    linear = [module for head in heads for module in head.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None
