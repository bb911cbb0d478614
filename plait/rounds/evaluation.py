"""How the held-out losses of single clients become one figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientLoss:
    """Held-out loss of one client.

    Attributes:
        loss: mean cross-entropy in nats, over tokens (language model) or examples (classification).
        tokens: label tokens it is the mean of.
        examples: sequences it is the mean of.
        correct: right answers, for classification.
    """

    loss: float
    tokens: int
    examples: int
    correct: int | None = None


def mean_loss(by_client: Mapping[str, ClientLoss]) -> dict[str, object]:
    """The fields of an ``evaluated`` event: the mean over all held-out tokens, and every client's own figures."""
    total = sum(entry.tokens for entry in by_client.values())
    fields: dict[str, object] = {
        "loss": sum(entry.loss * entry.tokens for entry in by_client.values()) / total,
        "by_client": {name: _row(entry) for name, entry in sorted(by_client.items())},
    }
    judged = [(entry.correct, entry.examples) for entry in by_client.values() if entry.correct is not None]
    if judged:
        fields["accuracy"] = sum(correct for correct, _ in judged) / sum(examples for _, examples in judged)
    return fields


def _row(entry: ClientLoss) -> dict[str, float | int]:
    row: dict[str, float | int] = {"loss": entry.loss, "tokens": entry.tokens}
    if entry.correct is not None:
        row["accuracy"] = entry.correct / entry.examples
    return row
