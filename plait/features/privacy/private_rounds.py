"""The noise of a run's rounds: intended in the ledger, then drawn; every draw for other updates is paid for.

A round's intent is on disk before its noise exists, and is charged from then on. The same updates give the same
commitment and so the same noise, for free: a killed server continues to the same bits. Other updates give other noise
and a second charge. A round that the budget has no room for does not begin. Where clients add the noise, under masks,
the server has no key, and pays before it asks any client to unmask.
Knows no update and no rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from plait.errors import PeerError
from plait.features.privacy.card import BUT_SERVERS
from plait.features.privacy.events import NoiseIntended, PrivacySpent, PrivacyStarted
from plait.features.privacy.key import RunKey
from plait.features.privacy.mechanism import ClientPrivacy
from plait.rounds.costs import CannotPayError
from plait.rounds.events import Event
from plait.rounds.run_state import RunState


class BudgetSpentError(CannotPayError):
    """The noise of a round would exceed the run's epsilon; nothing was drawn."""


class PrivateRounds:
    """The rounds of one private run.

    Args:
        key: of the noise; None where clients add it.
        record: writes an event durably.
        told: rounds of which the ledger says what they have cost.
    """

    def __init__(
        self,
        privacy: ClientPrivacy,
        key: RunKey | None,
        *,
        intents: Iterable[NoiseIntended],
        record: Callable[[Event], None],
        told: Collection[int] = (),
    ) -> None:
        self.privacy = privacy
        self._key = key
        self._intents = {(intent.round, intent.commitment) for intent in intents}
        self._record = record
        self._told = told

    withholds = True

    def ending(self, number: int) -> str:
        """Why a round may not begin; one whose intent is recorded may, because it is paid for."""
        is_paid = any(intended == number for intended, _ in self._intents)
        if is_paid or len(self._intents) + 1 <= self.privacy.most_charges:
            return ""
        return f"another one would exceed epsilon {self.privacy.epsilon:g}"

    def is_intended(self, number: int, digest: bytes) -> bool:
        """Whether the noise of a round is intended for just these updates."""
        return bool(self._key) and (number, self._key.commitment(number, digest)) in self._intents

    def key_for(self, number: int, digest: bytes, *, clip_norm: float) -> bytes:
        """The key that a round's noise follows from, once its intent is durable.

        Raises:
            BudgetSpentError: that would be one charge too many.
        """
        if self._key is None:
            raise ValueError("the noise of this run is its clients' own")
        self.intend(number, self._key.commitment(number, digest), clip_norm=clip_norm)
        return self._key.for_round(number, digest)

    def intend(self, number: int, commitment: str, *, clip_norm: float) -> None:
        """Pay for a round, unless just this is paid for.

        Args:
            commitment: of the updates, or of the clients, that the noise is for.

        Raises:
            BudgetSpentError: that would be one charge too many.
        """
        if (number, commitment) in self._intents:
            return
        if len(self._intents) + 1 > self.privacy.most_charges:
            raise BudgetSpentError(
                f"drawing the noise of round {number} again, for other updates, would exceed epsilon "
                f"{self.privacy.epsilon:g}"
            )
        self._intents.add((number, commitment))
        epsilon = self.privacy.epsilon_after(len(self._intents))
        self._record(NoiseIntended(round=number, commitment=commitment, clip_norm=clip_norm, epsilon=epsilon))

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> PrivacySpent | None:
        """What the run has spent once a round is over; None before the first, and where it is recorded."""
        del epsilons
        if state.clip_norm is None or state.round in self._told:
            return None
        charges = len(self._intents)
        return PrivacySpent(
            round=state.round,
            epsilon=self.privacy.epsilon_after(charges),
            delta=self.privacy.delta,
            charges=charges,
            clip_norm=state.clip_norm,
        )


def recomputed(
    privacy: ClientPrivacy, key: RunKey | None, promised: PrivacyStarted, intents: Iterable[NoiseIntended]
) -> PrivateRounds:
    """The same rounds, to recompute a run from its updates and its key.

    Raises:
        PeerError: it is not the run's key, or the ledger promises other noise than the settings give; later, the noise
            of a round belongs to other updates.
    """
    check_promise(privacy, promised)
    if key and key.check != promised.key_check:
        raise PeerError(f"the noise key gives {key.check[:16]}, expected {promised.key_check[:16]} as the ledger says")

    def refuse(event: Event) -> None:
        number = event.round if isinstance(event, NoiseIntended) else 0
        raise PeerError(f"the noise of round {number} was intended for other updates, expected the stored ones")

    # Without a budget, so that other updates are refused as such.
    return PrivateRounds(replace(privacy, epsilon=None), key, intents=intents, record=refuse)


def check_promise(privacy: ClientPrivacy, promised: PrivacyStarted) -> None:
    """Check that a ledger promises the noise that a run's settings give.

    Raises:
        PeerError: it promises other noise.
    """
    for name, told, settled in (
        ("noise multiplier", promised.noise_multiplier or 0.0, privacy.noise_multiplier),
        ("delta", promised.delta, privacy.delta),
        ("epsilon", promised.epsilon or 0.0, privacy.epsilon or 0.0),
        ("guaranteed clients", promised.guaranteed or 0, privacy.guaranteed),
    ):
        if not math.isclose(told, settled, rel_tol=1e-9):
            raise PeerError(f"the ledger promises {name} {told:g}, expected {settled:g} as the run's settings give")


def started(
    privacy: ClientPrivacy,
    key: RunKey | None,
    *,
    size: int,
    fewest: int = 0,
    continues: bool = False,
    regions: bool = False,
) -> PrivacyStarted:
    """The event that says what a run promises.

    Args:
        key: of the run; None where clients add the noise.
    """
    is_adaptive = privacy.clip_norm is None
    return PrivacyStarted(
        unit="client",
        adjacency="zero-out",
        observer=(BUT_SERVERS if regions else "everybody but the server") if key else "everybody, the server too",
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        noise_multiplier=privacy.noise_multiplier,
        update_multiplier=privacy.update_multiplier,
        count_multiplier=privacy.count_multiplier,
        clip_quantile=privacy.quantile if is_adaptive else None,
        clip_norm=privacy.first_clip(size),
        clients=privacy.clients,
        parameters=size,
        noise_over_clip=privacy.noise_over_clip(size),
        amplification="none: cohorts follow from the seed and are on record",
        key_check=key.check if key else "",
        guaranteed=privacy.guaranteed or None,
        fewest=fewest or None,
        continues=continues,
    )
