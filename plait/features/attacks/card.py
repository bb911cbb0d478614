"""The card of a finished run's adapter, once attacks on it are recorded."""

from __future__ import annotations

from plait.adapters import CARD_FILE, BaseReference, model_card
from plait.adapters.peft_reading import load_peft_directory
from plait.files import write_atomically
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.rounds.starting_point import parents_in


def rewrite_card(directory: RunDirectory, base: BaseReference) -> None:
    """Rewrite the card of a finished run's adapter from its ledger.

    Raises:
        MachineError: it cannot be written.
    """
    events = read_events(directory.ledger)
    view = RunView.of(events)
    rounds = view.end.kept_round if view.end and view.end.kept_round is not None else len(view.rounds)
    first, last = view.base_evaluation, view.evaluations.get(rounds)
    clients = view.start.config.get("clients")
    card = model_card(
        name=directory.path.name,
        spec=load_peft_directory(directory.adapter).spec(),
        base=base,
        rounds=rounds,
        clients=clients if isinstance(clients, int) else view.client_count,
        base_loss=first.loss if first else None,
        final_loss=last.loss if last else None,
        parents=parents_in(events),
        told=[
            *((card.title, card.facts) for card in view.cards.values()),
            ("Attacks on membership", view.audited.facts if view.audited else ()),
        ],
    )
    write_atomically(directory.adapter / CARD_FILE, card.encode())
