"""After a run you may talk to its model."""

from __future__ import annotations

from plait.rounds.run_view import RunView


def afterwards(view: RunView) -> tuple[str, str] | None:
    """What to do, and the command; None for a model that writes no text, or of which there is none yet."""
    if view.is_classification or not view.rounds:
        return None
    return "Talk to it", "plait chat RUN"
