"""After a run its adapter may be taken elsewhere."""

from __future__ import annotations

from plait.rounds.run_view import RunView


def afterwards(view: RunView) -> tuple[str, str] | None:
    """The command; None if there is no adapter yet."""
    return ("plait export RUN my-adapter --to peft", "take the adapter elsewhere") if view.rounds else None
