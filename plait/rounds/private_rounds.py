"""The noise of a run's rounds: intended in the ledger, then drawn; every draw for other updates is paid for.

A round's intent is on disk before its noise exists, and is charged from then on. The same updates give the same
commitment and so the same noise, for free: a server that is killed goes on to the same bits. Other updates give other
noise and a second charge. A round that the budget has no room for does not begin. Knows no update and no rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from plait.errors import PeerError
from plait.privacy.key import RunKey
from plait.privacy.mechanism import ClientPrivacy
from plait.rounds.events import Event, NoiseIntended, PrivacySpent, PrivacyStarted


class BudgetSpentError(PeerError):
    """The noise of a round would exceed the run's epsilon; nothing was drawn."""


class PrivateRounds:
    """The rounds of one private run.

    Args:
        intents: of the ledger so far.
        record: writes an event durably.
    """

    def __init__(
        self,
        privacy: ClientPrivacy,
        key: RunKey,
        *,
        intents: Iterable[NoiseIntended],
        record: Callable[[Event], None],
    ) -> None:
        self.privacy = privacy
        self._key = key
        self._intents = {(intent.round, intent.commitment) for intent in intents}
        self._record = record

    def affords(self, number: int) -> bool:
        """Whether a round may begin; one whose intent is recorded may, because it is paid for."""
        is_paid = any(intended == number for intended, _ in self._intents)
        return is_paid or len(self._intents) + 1 <= self.privacy.most_charges

    def is_intended(self, number: int, digest: bytes) -> bool:
        """Whether the noise of a round is intended for just these updates."""
        return (number, self._key.commitment(number, digest)) in self._intents

    def key_for(self, number: int, digest: bytes, *, clip_norm: float) -> bytes:
        """The key of a round's noise, once its intent is durable.

        Args:
            number: of the round.
            digest: of everything that the sum below the noise is made of.
            clip_norm: of the round.

        Raises:
            BudgetSpentError: that would be one charge too many.
        """
        intent = number, self._key.commitment(number, digest)
        if intent not in self._intents:
            if len(self._intents) + 1 > self.privacy.most_charges:
                raise BudgetSpentError(
                    f"drawing the noise of round {number} again, for other updates, would exceed epsilon "
                    f"{self.privacy.epsilon:g}"
                )
            self._intents.add(intent)
            epsilon = self.privacy.epsilon_after(len(self._intents))
            self._record(NoiseIntended(round=number, commitment=intent[1], clip_norm=clip_norm, epsilon=epsilon))
        return self._key.for_round(number, digest)

    def spent(self, number: int, clip_norm: float) -> PrivacySpent:
        """What the run has spent once a round is over."""
        charges = len(self._intents)
        return PrivacySpent(
            round=number,
            epsilon=self.privacy.epsilon_after(charges),
            delta=self.privacy.delta,
            charges=charges,
            clip_norm=clip_norm,
        )


def recomputed(
    privacy: ClientPrivacy, key: RunKey, promised: PrivacyStarted, intents: Iterable[NoiseIntended]
) -> PrivateRounds:
    """The same rounds, for whoever recomputes a run from its updates and its key.

    Raises:
        PeerError: it is not the run's key, or the ledger promises other noise than the settings give; later, the noise
            of a round belongs to other updates.
    """
    if key.check != promised.key_check:
        raise PeerError(f"the noise key gives {key.check[:16]}, expected {promised.key_check[:16]} as the ledger says")
    for name, stated, settled in (
        ("noise multiplier", promised.noise_multiplier or 0.0, privacy.noise_multiplier),
        ("delta", promised.delta, privacy.delta),
        ("epsilon", promised.epsilon or 0.0, privacy.epsilon or 0.0),
    ):
        if not math.isclose(stated, settled, rel_tol=1e-9):
            raise PeerError(f"the ledger promises {name} {stated:g}, expected {settled:g} as the run's settings give")

    def refuse(event: Event) -> None:
        number = event.round if isinstance(event, NoiseIntended) else 0
        raise PeerError(f"the noise of round {number} was intended for other updates, expected the stored ones")

    # Without a budget, so that other updates are refused as such.
    return PrivateRounds(replace(privacy, epsilon=None), key, intents=intents, record=refuse)


def started(privacy: ClientPrivacy, key: RunKey, *, size: int) -> PrivacyStarted:
    """The event that says what a run promises.

    Args:
        privacy: of the run.
        key: of the run.
        size: numbers in an update.
    """
    is_adaptive = privacy.clip_norm is None
    return PrivacyStarted(
        unit="client",
        adjacency="zero-out",
        observer="everybody but the server",
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
        key_check=key.check,
    )
