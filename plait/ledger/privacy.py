"""What the ledger of a run with differential privacy says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plait.ledger.events import Count, Event, Number


class PrivacyStarted(Event):
    """The run has differential privacy.

    Attributes:
        unit: what is hidden as a whole: a ``client``, or a ``record`` of one. adjacency: ``zero-out``: its updates or
        gradients are replaced by zero. observer: from whom it is hidden. epsilon: never exceeded. delta: of the
        guarantee. noise_multiplier: a round costs what one Gaussian mechanism with noise of this multiple of its
        sensitivity costs; None of records, where each client's follows from how many it has. update_multiplier: noise
        of the sum of updates, over the clip norm. count_multiplier: noise of the count that an adaptive clip norm
        follows; None for a fixed one. clip_quantile: that it follows; None likewise. clip_norm: of round 1; of
        records, None where all gradients are scaled to one norm. clients: number that the sum of a round is divided
        by. parameters: numbers in an update. noise_over_clip: norm of the noise in a round's mean, over the clip
        norm; 0 for records. amplification: whether sampling is claimed to lower epsilon, and why. key_check: what the
        secret noise key must give (see `noise`); empty for records, whose keys are the clients'. batch:
        records that a step is expected to draw. steps: of a client in the whole run. guaranteed: clients whose own
        noise is in every sum of a whole round, where clients add it under masks. fewest: of them whose noise is in any
        sum. continues: whether the run starts from other runs' adapters, whose epsilons add up with its own.
    """

    event = "privacy_started"
    is_public = True
    unit: str
    adjacency: str = ""
    observer: str = ""
    epsilon: Number | None = None
    delta: Number
    noise_multiplier: Number | None = None
    update_multiplier: Number | None = None
    count_multiplier: Number | None = None
    clip_quantile: Number | None = None
    clip_norm: Number | None = None
    clients: Count
    parameters: Count = 0
    noise_over_clip: Number = 0.0
    amplification: str = ""
    key_check: str = ""
    batch: Count | None = None
    steps: Count | None = None
    guaranteed: Count | None = None
    fewest: Count | None = None
    continues: bool = False


class NoiseIntended(Event):
    """The noise of a round is about to be drawn; from here on it is paid for, whatever becomes of it.

    Attributes:
        commitment: of its updates, readable with the noise key only; the same updates get the same noise. Where clients
            add the noise, of the list of clients in the sum, which is about to be unmasked.
        clip_norm: that they are clipped to.
        epsilon: of everything so far, this included.
    """

    event = "noise_intended"
    is_public = True
    round: Count
    commitment: str
    clip_norm: Number
    epsilon: Number


class PrivacySpent(Event):
    """What a run has spent after a round.

    Attributes:
        epsilon: of everything so far; of records, the largest of any client's, or what no client goes beyond.
        charges: one per round, and one more wherever a round was drawn again for other updates; None for records.
        clip_norm: of the next round; None for records.
        by_client: epsilon of each client's records so far, as the account of each that took part says.
    """

    event = "privacy_spent"
    is_public = True
    round: Count
    epsilon: Number
    delta: Number
    charges: Count | None = None
    clip_norm: Number | None = None
    by_client: Mapping[str, Number] = {}

    @property
    def is_known(self) -> bool:
        """Whether epsilon is what was spent, and not the most that clients spend who do not say it."""
        return self.charges is not None or bool(self.by_client)

    @property
    def logged(self) -> Mapping[str, float | None]:
        """Epsilon, and the clip norm of the next round."""
        return {"privacy/epsilon": self.epsilon if self.is_known else None, "privacy/clip_norm": self.clip_norm}


def intents_in(events: Sequence[Event]) -> tuple[NoiseIntended, ...]:
    """Every draw of noise that a private run has paid for."""
    return tuple(event for event in events if isinstance(event, NoiseIntended))


def promised_in(events: Sequence[Event]) -> PrivacyStarted | None:
    """What a run promised about privacy; None without."""
    return next((event for event in events if isinstance(event, PrivacyStarted)), None)


def spent_in(events: Sequence[Event]) -> frozenset[int]:
    """Rounds after which a ledger says what was spent."""
    return frozenset(event.round for event in events if isinstance(event, PrivacySpent))
