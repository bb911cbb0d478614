"""How much is sampled at once: what the engine of `serving` keeps to, and what memory is planned for."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS_AT_FIRST = 128
"""Columns of a cache that has any."""
ROWS = 64
"""Texts of a training step that grow side by side: more wait for their turn."""


@dataclass(frozen=True)
class Limits:
    """Limits of the current work.

    Attributes:
        waiting: queued requests; more are refused.
        context: tokens per text, prompt included; 0 for the base's own limit.
        prompt_tokens: of the prompts admitted in one step, padding included; a longer one goes alone.
    """

    rows: int = 32
    waiting: int = 256
    context: int = 0
    prompt_tokens: int = 2048
