"""Cards: what differential privacy or masks promise in a run and have done so far, folded from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, cast

from plait.rounds.events import Event

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along


class Card(Protocol):
    """What one of them says of a run."""

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
    """The cards of a run once one more event is known: of differential privacy, and of masks."""
    found: dict[str, object] = {**cards}
    if "privacy" in cards or event.event == "privacy_started":
        from plait.features.privacy.card import PrivacyCard

        found["privacy"] = PrivacyCard.after(cast("PrivacyCard | None", found.get("privacy")), event)
    if "masks" in cards or event.event == "sum_unmasked":
        from plait.features.secagg.events import MaskedCard, after

        found["masks"] = after(cast("MaskedCard | None", found.get("masks")), event)
    return cast("Mapping[str, Card]", found)
