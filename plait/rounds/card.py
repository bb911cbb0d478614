"""The card of a feature in one run: what it promises and has done so far, folded from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from plait.known_features import feature_with
from plait.places import at
from plait.rounds.events import KINDS, Event

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along


class Card(Protocol):
    """What a feature says of a run."""

    @property
    def title(self) -> str:
        """Of the card."""
        ...

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What it says, fact by fact."""
        ...

    @property
    def warning(self) -> str:
        """What an operator should know before going on, in a sentence; empty for nothing."""
        ...

    @property
    def headline(self) -> str:
        """How the run was trained, said in the place of its losses; empty where these are told."""
        ...

    @property
    def trust(self) -> tuple[str, str]:
        """Whether the run can be trusted with secrets, in two or three words and in a sentence with a space behind."""
        ...

    @property
    def hides_clients(self) -> bool:
        """Whether the ledger has no client's own figures."""
        ...

    @property
    def status(self) -> Mapping[str, Json]:
        """Of a run that goes on: some figures, and all of it in words as ``text``; empty for nothing."""
        ...

    def line(self, event: Event) -> str:
        """What is shown of an event while the run goes on; empty for nothing."""
        ...


def cards_after(cards: Mapping[str, Card], event: Event) -> Mapping[str, Card]:
    """The cards of a run once one more event is known, by the place that made each (`plait.feature.Feature.card`)."""
    if event.event and event.event not in KINDS:
        feature = feature_with("events", event.event)
        if feature and feature.card and feature.card not in cards:
            first: Card | None = at(feature.card)(None, event)
            return {**cards, feature.card: first} if first else cards
    return {place: at(place)(card, event) for place, card in cards.items()} if cards else cards
