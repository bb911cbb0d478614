"""How long a step takes on a GPU, from the operations that it consists of: the roofline model (Williams et al., 2009).

An operation takes as long as its arithmetic or its bytes, whichever is longer, and all of them together at least as
long as their launches. Attention's arithmetic is counted without a causal mask, at 55 per cent of the rate of matrix
products, and products in float32 at an eighth of it. Knows no model and no trainer; nothing here was measured by plait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_ATTENTION, _FLOAT32 = 0.55, 1 / 8


@dataclass(frozen=True)
class Operation:
    """What one operation costs.

    Attributes:
        name: torch's.
        launches: kernels.
        flops: of matrix products.
        moved_bytes: read and written.
        float32: whether its products are in float32.
    """

    name: str
    launches: int
    flops: float
    moved_bytes: float
    float32: bool = False


@dataclass(frozen=True)
class Gpu:
    """A card.

    Attributes:
        name: as its maker sells it.
        flops: a second, of products in bfloat16, as good kernels reach it.
        bytes_a_second: of its memory, as good kernels reach it.
        launch_s: from one launch to the next.
        peak_flops: a second, of dense products in bfloat16, as its maker states it.
    """

    name: str
    flops: float
    bytes_a_second: float
    launch_s: float
    peak_flops: float


GPUS = (
    Gpu("H100", 650e12, 0.85 * 3350e9, 5e-6, 989e12),
    Gpu("RTX 4090", 145e12, 0.88 * 1008e9, 5e-6, 165e12),
    Gpu("AGX Orin", 35e12, 0.8 * 204e9, 20e-6, 43e12),
)


def busy_seconds(operations: Iterable[Operation], gpu: Gpu) -> float:
    """Time of all operations, one after the other, without waiting for launches."""
    return sum(_seconds(operation, gpu) for operation in operations)


def step_seconds(busy_s: float, launches: float, gpu: Gpu) -> float:
    """Time of a step, whose launches run ahead of its operations where they are fast enough."""
    return max(busy_s, launches * gpu.launch_s)


def _seconds(operation: Operation, gpu: Gpu) -> float:
    attends = "attention" in operation.name or "attn" in operation.name
    rate = gpu.flops * (_ATTENTION if attends else 1) * (_FLOAT32 if operation.float32 else 1)
    return max(operation.flops / rate, operation.moved_bytes / gpu.bytes_a_second)
