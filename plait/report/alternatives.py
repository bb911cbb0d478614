"""Alternative exchanges that a run's bytes are compared with.

Each sends one message each way for every client in a round, and counts array bytes only.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.ledger.run_view import RunView


@dataclass(frozen=True)
class Alternative:
    """Another way of doing the same rounds; `message_bytes` go up and down once per client and round."""

    name: str
    message_bytes: float

    def sent_bytes(self, client_rounds: int) -> float:
        """Bytes in both directions over all rounds."""
        return 2 * self.message_bytes * client_rounds


def all_alternatives(*, full_model_bytes: int, trainable_parameters: int) -> dict[str, Alternative]:
    """What users of LoRA send, from the most to the least expensive, and then a whole model; by keys of summaries.

    Args:
        full_model_bytes: the whole model in float32.
    """
    return {
        "fp32_adapter": Alternative("raw adapter, fp32", 4 * trainable_parameters),  # as Flower and NVIDIA FLARE do
        "bf16_adapter": Alternative("raw adapter, bf16", 2 * trainable_parameters),
        "8bit_adapter": Alternative("adapter at 8 bits", trainable_parameters),  # without scales
        "4bit_adapter": Alternative("adapter at 4 bits", trainable_parameters / 2),
        "full_model": Alternative("full model, fp32", full_model_bytes),
    }


def savings(alternative: Alternative, *, client_rounds: int, sent_bytes: int) -> float | None:
    """How many times more the alternative would have sent; None if nothing was sent or no update arrived."""
    return alternative.sent_bytes(client_rounds) / sent_bytes if sent_bytes and client_rounds else None


def alternatives_of(view: RunView) -> dict[str, Alternative]:
    """Those of a run."""
    size = view.start.adapter.trainable_parameters
    return all_alternatives(full_model_bytes=view.start.full_model_bytes, trainable_parameters=size)


def savings_of(view: RunView) -> dict[str, float | None]:
    """The `savings` of a run compared with each."""
    rounds, sent = view.client_rounds, view.sent.total_bytes
    return {key: savings(each, client_rounds=rounds, sent_bytes=sent) for key, each in alternatives_of(view).items()}
