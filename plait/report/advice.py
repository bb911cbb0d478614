"""What a run's own figures say of its settings: data that is cut off, learning rates, steps that were taken back."""

from __future__ import annotations

from collections.abc import Iterator

from plait.rounds.cut import cut_sentence
from plait.rounds.rates import given_rate, rates_sentence
from plait.rounds.run_view import RunView


def advice(view: RunView) -> Iterator[str]:
    """Sentences; none if nothing stands out."""
    if sentence := cut_sentence(view.clients.values(), seq_len=view.start.config.get("seq-len")):
        yield sentence
    given = given_rate(view.start.config)
    if given is not None and (sentence := rates_sentence(view.updates.values(), given=given)):
        yield sentence
    for event in view.taken_back.values():
        yield event.sentence
    if view.taken_back and view.ended_early is None:
        yield "A lower --learning-rate, or lr of --server-optimizer, would avoid that."
    if view.ended_early:
        yield view.ended_early.sentence
    kept = view.end.kept_round if view.end else None
    if kept is not None and kept < len(view.rounds) and not any(event.ends for event in view.taken_back.values()):
        yield f"The published adapter is that of round {kept}, the best evaluated one."
