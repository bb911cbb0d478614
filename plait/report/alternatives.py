"""Alternative exchanges that a run's bytes are compared with.

Each sends one message each way for every client in a round, and counts array bytes only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alternative:
    """Another way of doing the same rounds; `message_bytes` go up and down once per client and round."""

    name: str
    message_bytes: float

    def sent_bytes(self, client_rounds: int) -> float:
        """Bytes in both directions over all rounds."""
        return 2 * self.message_bytes * client_rounds


def full_model_fp32(full_model_bytes: int) -> Alternative:
    """Federated averaging of all weights in float32."""
    return Alternative("full model, fp32", full_model_bytes)


def raw_adapter_fp32(trainable_parameters: int) -> Alternative:
    """The adapter as plain float32 arrays, the default of Flower and NVIDIA FLARE."""
    return Alternative("raw adapter, fp32", 4 * trainable_parameters)


def raw_adapter_bf16(trainable_parameters: int) -> Alternative:
    """The adapter as plain bfloat16 arrays."""
    return Alternative("raw adapter, bf16", 2 * trainable_parameters)


def adapter_at(bits: int, trainable_parameters: int) -> Alternative:
    """The adapter quantised to so many bits, without its scales."""
    return Alternative(f"adapter at {bits} bits", trainable_parameters * bits / 8)


def all_alternatives(*, full_model_bytes: int, trainable_parameters: int) -> tuple[Alternative, ...]:
    """What users of LoRA send, from the most to the least expensive, and then whole models.

    Args:
        full_model_bytes: the whole model in float32.
    """
    return (
        raw_adapter_fp32(trainable_parameters),
        raw_adapter_bf16(trainable_parameters),
        adapter_at(8, trainable_parameters),
        adapter_at(4, trainable_parameters),
        full_model_fp32(full_model_bytes),
        Alternative("full model, bf16", full_model_bytes / 2),
    )


def savings(alternative: Alternative, *, client_rounds: int, sent_bytes: int) -> float | None:
    """How many times more the alternative would have sent; None if nothing was sent or no update arrived."""
    return alternative.sent_bytes(client_rounds) / sent_bytes if sent_bytes and client_rounds else None
