"""A base in four bits: NF4 of QLoRA (Dettmers et al., arXiv 2305.14314), by bitsandbytes through transformers.

Weights of linear layers are rounded once, with scales in blocks of 64 that are rounded too ("double quantisation").
"""

import importlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from plait.training.device import Compute, check_four_bits


def four_bits(compute: Compute, *, whole: Collection[str] = ()) -> dict[str, object]:
    """Arguments of transformers' `from_pretrained` for loading a base in four bits; `whole` layers stay as they are."""
    check_four_bits(compute.device.type)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute.dtype,
        llm_int8_skip_modules=sorted(whole) or None,  # applies to four bits as well
    )
    return {"quantization_config": config, "device_map": {"": compute.device}}


def keep_trainable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking weights on CPUs with AVX512-BF16: that product has no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]


class _QuantState(Protocol):
    @property
    def shape(self) -> torch.Size: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Packed:
    """The weight of a linear layer, (d_out * d_in / 2, 1) uint8, two values a byte; `dtype` in which it computes."""

    values: torch.Tensor
    state: _QuantState
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """Of the layer, (d_out, d_in)."""
        return self.state.shape

    def unpacked(self) -> torch.Tensor:
        """(d_out, d_in) in `dtype`."""
        functional = importlib.import_module("bitsandbytes.functional")
        return cast("torch.Tensor", functional.dequantize_4bit(self.values, self.state)).to(self.dtype)


def packed_weight(module: nn.Module) -> Packed | None:
    """The weight of a linear layer in four bits; None for any other module, or one not yet packed."""
    if type(module) is not sys.modules["bitsandbytes.nn"].Linear4bit:
        return None
    weight = cast("torch.Tensor", module.weight)
    state = cast("_QuantState | None", getattr(weight, "quant_state", None))
    computes = cast("torch.dtype | None", module.compute_dtype)
    if state is None or computes is None:
        return None
    return Packed(weight.data, state, computes)
