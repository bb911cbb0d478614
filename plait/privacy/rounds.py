"""The noise of a run's rounds: intended in the ledger, then drawn; every draw for other updates is paid for.

An intent is on disk, and charged, before its noise exists. The same updates give the same noise for free. Where clients
add the noise, under masks, the server has no key, and pays before it asks any client to unmask. Rule, optimizer and
broadcast get only the noised mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from plait.aggregation import RoundContext
from plait.aggregation.geometry import gathered, scattered, size_of
from plait.errors import PeerError
from plait.ledger.events import Event, Reason
from plait.ledger.privacy import NoiseIntended, PrivacySpent, PrivacyStarted
from plait.privacy.mechanism import ClientPrivacy, PrivateMean
from plait.privacy.noise import RunKey
from plait.rounds.fold import Fold, Folded, outcome_of_mean
from plait.rounds.run_plan import BudgetExhaustedError, PrivacyBudget
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.rounds.validate import RefusedUpdateError, open_update
from plait.wire.envelope import read_envelope


class BudgetSpentError(BudgetExhaustedError):
    """The noise of a round would exceed the run's epsilon; nothing was drawn."""


class PrivateRounds(PrivacyBudget):
    """The rounds of one private run.

    Args:
        key: of the noise; None where clients add it.
        record: writes an event durably.
        recorded: rounds whose costs the ledger has.
    """

    def __init__(
        self,
        privacy: ClientPrivacy,
        key: RunKey | None,
        *,
        intents: Iterable[NoiseIntended],
        record: Callable[[Event], None],
        recorded: Collection[int] = (),
    ) -> None:
        self.privacy = privacy
        self._key = key
        self._intents = {(intent.round, intent.commitment) for intent in intents}
        self._record = record
        self._recorded = recorded

    withholds = keeps_cohort = True

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
        """The key that a round's noise follows from, once its intent is durable; raises as `intend`."""
        if self._key is None:
            raise ValueError("the noise of this run is its clients' own")
        self.intend(number, self._key.commitment(number, digest), clip_norm=clip_norm)
        return self._key.for_round(number, digest)

    def intend(self, number: int, commitment: str, *, clip_norm: float) -> None:
        """Pay for a round's noise over the updates, or clients, of this commitment, unless just that is paid for.

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
        if state.clip_norm is None or state.round in self._recorded:
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
    """The same rounds, to recompute a run from its updates and its key."""
    check_promise(privacy, promised)
    if key and key.check != promised.key_check:
        raise PeerError(f"the noise key gives {key.check[:16]}, expected {promised.key_check[:16]} as in the ledger")

    def refuse(event: Event) -> None:
        number = event.round if isinstance(event, NoiseIntended) else 0
        raise PeerError(f"the noise of round {number} was intended for other updates than the stored ones")

    # Without a budget, so that other updates are refused as such.
    return PrivateRounds(replace(privacy, epsilon=None), key, intents=intents, record=refuse)


def check_promise(privacy: ClientPrivacy, promised: PrivacyStarted) -> None:
    """Check that a ledger promises the noise that a run's settings give."""
    for name, stated, settled in (
        ("noise multiplier", promised.noise_multiplier or 0.0, privacy.noise_multiplier),
        ("delta", promised.delta, privacy.delta),
        ("epsilon", promised.epsilon or 0.0, privacy.epsilon or 0.0),
        ("guaranteed clients", promised.guaranteed or 0, privacy.guaranteed),
    ):
        if not math.isclose(stated, settled, rel_tol=1e-9):
            raise PeerError(f"the ledger promises {name} {stated:g}, expected {settled:g} as the run's settings give")


def started(
    privacy: ClientPrivacy,
    key: RunKey | None,
    *,
    size: int,
    fewest: int = 0,
    continues: bool = False,
) -> PrivacyStarted:
    """The event of what a run promises; without a key where clients add the noise."""
    is_adaptive = privacy.clip_norm is None
    return PrivacyStarted(
        unit="client",
        adjacency="zero-out",
        observer="everybody but the server" if key else "everybody, the server too",
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


class PrivateFold(Fold):
    """The rule's outcome on the noised mean alone, which is all of the updates that it gets to see."""

    def __init__(self, spool: Spool, private: PrivateRounds) -> None:
        self._spool = spool
        self._private = private

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Whether the noise of a round is intended for just these updates; others would need, and pay for, another."""
        return self._private.is_intended(number, self._digest(state, number, accepted))

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """Clip the updates, add them up in whole numbers, and noise the sum; raises as `PrivateRounds.intend`."""
        spool, private, number = self._spool, self._private, context.round
        accepted = spool.counting(state, number, stored).accepted
        sent = spool.sent(number)
        size = size_of(sent)
        clip_norm = self._clip_norm(state, size)
        key = private.key_for(number, self._digest(state, number, accepted), clip_norm=clip_norm)
        mean = PrivateMean(private.privacy, size=size, clip_norm=clip_norm, key=key)
        folded: list[str] = []
        for client in accepted:
            expected = spool.expected(state, number, client, 0)
            opened = open_update(spool.load(number, client), expected)
            try:
                spool.check(opened, expected, 0)
            except RefusedUpdateError as error:
                spool.refused(number, client, Reason.RULE, str(error))
                continue
            mean.add(client, gathered(opened.delta, sent))
            folded.append(client)
        released = mean.finish()
        delta = scattered(released.mean, sent, context.geometry.layout)
        outcome = outcome_of_mean(spool.rule, context, delta, "the noised mean")
        return Folded(outcome, folded, keep=lambda before: replace(before, clip_norm=released.clip_norm))

    def _digest(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bytes:
        """SHA-256 of everything that the sum of a round is made of."""
        privacy = self._private.privacy
        size = size_of(self._spool.sent(number))
        settings = (privacy.noise_multiplier, privacy.clients, self._clip_norm(state, size), size)
        digest = hashlib.sha256(repr((state.run_id.hex(), number, settings, len(accepted))).encode())
        digest.update(state.shadow.digest())
        for client in accepted:
            digest.update(hashlib.sha256(client.encode()).digest())
            # Of its numbers alone: what else an update states, such as times, does not matter to the sum.
            stored = self._spool.load(number, client)
            digest.update(read_envelope(stored, max_bytes=len(stored)).payload_digest)
        return digest.digest()

    def _clip_norm(self, state: RunState, size: int) -> float:
        return self._private.privacy.first_clip(size) if state.clip_norm is None else state.clip_norm
