"""After a run its adapter may be taken elsewhere."""

from __future__ import annotations

from plait.rounds.run_view import RunView


def afterwards(view: RunView) -> tuple[str, str] | None:
    """What to do, and the command; None if there is no adapter yet."""
    return ("Take it along", "plait export RUN my-adapter --to peft") if view.rounds else None
