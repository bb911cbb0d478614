"""Differential privacy in one run: its guarantee, the noise of its rounds, and what goes into tasks and ledger.

Noise is intended in the ledger, then drawn; every draw for other updates is paid for. An intent is on disk, and
charged, before its noise exists; the same updates give the same noise for free. Where clients add the noise, under
masks, the server has no key, and pays before it asks any client to unmask. Rule, optimizer and broadcast get only the
noised mean.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from plait.aggregation import RoundContext
from plait.aggregation.geometry import gathered, scattered, size_of
from plait.config import RunConfig
from plait.errors import PeerError
from plait.guarantees import least_survivors
from plait.ledger.events import Event, Reason
from plait.ledger.privacy import NoiseIntended, PrivacySpent, PrivacyStarted, intents_in, promised_in, spent_in
from plait.privacy.client import ClientCharge, RecordCharge, RecordCosts, records_started
from plait.privacy.mechanism import ClientPrivacy, PrivateMean, multiplier_for
from plait.privacy.noise import RunKey
from plait.rounds.client_pipeline import ClientContext, ClientPipeline
from plait.rounds.coordinator import CannotRecomputeError, Host, Way
from plait.rounds.fold import Fold, Folded, outcome_of_mean
from plait.rounds.run_plan import BudgetExhaustedError, PrivacyBudget, RunContext, RunPlan
from plait.rounds.run_state import RunState
from plait.rounds.spool import Spool, Stored
from plait.rounds.validate import RefusedUpdateError, open_update
from plait.wire.envelope import read_envelope
from plait.wire.settings import Settings

_LARGEST_DELTA = 1e-5
# Of the updates' norms, which an adaptive clip norm follows.
_CLIP_QUANTILE = 0.5


def privacy_of(config: RunConfig) -> ClientPrivacy | None:
    """Differential privacy of a run's clients; None without."""
    if config.dp != "client":
        return None
    # The fewest clients in a sum that the server sees; 0 if it sees single updates.
    guaranteed = least_survivors(config.cohort_size) if config.secure_aggregation else 0
    return ClientPrivacy(
        noise_multiplier=multiplier_for(config.dp_epsilon, config.dp_delta, config.rounds, guaranteed=guaranteed),
        delta=config.dp_delta,
        epsilon=config.dp_epsilon,
        clients=config.cohort_size,
        clip_norm=None if config.dp_clip == "adaptive" else config.dp_clip,
        quantile=_CLIP_QUANTILE,
        largest_step=config.learning_rate * config.local_steps,
        guaranteed=guaranteed,
    )


def settles(config: RunConfig) -> Mapping[str, object]:
    """The delta of the guarantee, where none is given."""
    most = min(_LARGEST_DELTA, 0.1 / config.clients) if config.dp == "client" else _LARGEST_DELTA
    settled = {"dp_delta": config.dp_delta or most}
    privacy_of(config.model_copy(update=settled))
    return settled


def tasks(settings: Settings, config: RunConfig) -> Settings:
    """The settings of tasks with what a client has to know to add noise."""
    if config.dp == "record":
        return replace(
            settings,
            record_delta=config.dp_delta,
            record_epsilon=config.dp_epsilon,
            record_clip=0.0 if config.dp_clip == "adaptive" else config.dp_clip,
            group_records=config.dp_group_records if config.private_group else 0,
        )
    privacy = privacy_of(config)
    if privacy is None or not privacy.guaranteed:
        return settings
    return replace(
        settings,
        client_noise=privacy.noise_multiplier,
        client_clip=privacy.clip_norm or 0.0,
        client_cohort=privacy.clients,
    )


def way(way: Way, config: RunConfig, plan: RunPlan, host: Host) -> Way:
    """The way of a run whose rounds cost privacy."""
    if config.dp == "record":
        costs = RecordCosts(plan.settings, recorded=spent_in(host.events), masked=plan.settings.secure_aggregation)
        return replace(way, costs=costs)
    privacy = privacy_of(config)
    return way if privacy is None else with_private(way, privacy, host)


def client_way(way: ClientPipeline, config: RunConfig, speaker: ClientContext) -> ClientPipeline:
    """The way of a client whose data pay for a run."""
    of_records = config.dp == "record"
    is_noised = of_records or config.secure_aggregation
    return paying(way, speaker, privacy_of(config), of_records=of_records, is_noised=is_noised)


def paying(
    way: ClientPipeline, speaker: ClientContext, private: ClientPrivacy | None, *, of_records: bool, is_noised: bool
) -> ClientPipeline:
    """The way of a client that pays for what noise promises of whole clients, if it does.

    Where the client adds noise (`is_noised`), nothing else of its data is sent.
    """
    hooks = (*way.hooks, ClientCharge(speaker, private)) if private else way.hooks
    way = replace(way, hooks=hooks, is_open=way.is_open and not is_noised)
    if not of_records:
        return way
    charge = RecordCharge(speaker)
    return replace(way, hooks=(*way.hooks, charge), agree=charge.agree)


def with_private(way: Way, privacy: ClientPrivacy, host: Host) -> Way:
    """The way of a run with private clients; where these add the noise, its fold is that of their sums."""
    key = None
    if not privacy.guaranteed:
        if host.recomputes and not host.directory.noise_key.exists():
            raise CannotRecomputeError("its noise key is not here")
        key = RunKey.load(host.directory.noise_key)
    intents = intents_in(host.events)
    if host.recomputes:
        promised = promised_in(host.events)
        if promised is None:
            raise PeerError("config.toml and ledger differ on differential privacy")
        check_promise(privacy, promised)
        if key and key.check != promised.key_check:
            raise PeerError(
                f"the noise key gives {key.check[:16]}, expected {promised.key_check[:16]} as in the ledger"
            )
        # Without a budget, so that other updates are refused as such.
        private = PrivateRounds(replace(privacy, epsilon=None), key, intents=intents, record=_refuse)
    else:
        recorded = spent_in(host.events)
        private = PrivateRounds(privacy, key, intents=intents, record=host.record, recorded=recorded)
    folding = way.folding if privacy.guaranteed else partial(PrivateFold, private=private)
    return replace(way, costs=private, folding=folding)


def _refuse(event: Event) -> None:
    number = event.round if isinstance(event, NoiseIntended) else 0
    raise PeerError(f"the noise of round {number} was intended for other updates than the stored ones")


def opens(config: RunConfig, opening: RunContext) -> PrivacyStarted | None:
    """The event of what a run promises, unless it is recorded; the noise key of a new one is made."""
    privacy, promised = privacy_of(config), promised_in(opening.events)
    key: RunKey | None = None
    if privacy and not privacy.guaranteed:
        key = (RunKey.load if opening.events else RunKey.create)(opening.directory.noise_key)
    if promised:
        if privacy:
            check_promise(privacy, promised)
        return None
    if privacy is None:
        size, clients = opening.size, config.cohort_size
        return records_started(
            opening.settings, group=config.private_group, clients=clients, size=size, continues=opening.continues
        )
    return started(privacy, key, size=opening.size, continues=opening.continues)


@dataclass(eq=False)
class PrivateRounds(PrivacyBudget):
    """The rounds of one private run.

    Attributes:
        key: of the noise; None where clients add it.
        record: writes an event durably.
        recorded: rounds whose costs the ledger has.
    """

    privacy: ClientPrivacy
    key: RunKey | None
    intents: Iterable[NoiseIntended]
    record: Callable[[Event], None]
    recorded: Collection[int] = ()
    withholds = keeps_cohort = True

    def __post_init__(self) -> None:
        self._intents = {(intent.round, intent.commitment) for intent in self.intents}

    def ending(self, number: int) -> str:
        """Why a round may not begin; one whose intent is recorded may, because it is paid for."""
        is_paid = any(intended == number for intended, _ in self._intents)
        if is_paid or len(self._intents) + 1 <= self.privacy.most_charges:
            return ""
        return f"another one would exceed epsilon {self.privacy.epsilon:g}"

    def is_intended(self, number: int, digest: bytes) -> bool:
        """Whether the noise of a round is intended for just these updates."""
        return bool(self.key) and (number, self.key.commitment(number, digest)) in self._intents

    def key_for(self, number: int, digest: bytes, *, clip_norm: float) -> bytes:
        """The key that a round's noise follows from, once its intent is durable; raises as `intend`."""
        if self.key is None:
            raise ValueError("the noise of this run is its clients' own")
        self.intend(number, self.key.commitment(number, digest), clip_norm=clip_norm)
        return self.key.for_round(number, digest)

    def intend(self, number: int, commitment: str, *, clip_norm: float) -> None:
        """Pay for a round's noise over the updates, or clients, of this commitment, unless just that is paid for.

        Raises:
            BudgetExhaustedError: that would be one charge too many.
        """
        if (number, commitment) in self._intents:
            return
        if len(self._intents) + 1 > self.privacy.most_charges:
            raise BudgetExhaustedError(
                f"drawing the noise of round {number} again, for other updates, would exceed epsilon "
                f"{self.privacy.epsilon:g}"
            )
        self._intents.add((number, commitment))
        epsilon = self.privacy.epsilon_after(len(self._intents))
        self.record(NoiseIntended(round=number, commitment=commitment, clip_norm=clip_norm, epsilon=epsilon))

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> PrivacySpent | None:
        """What the run has spent once a round is over; None before the first, and where it is recorded."""
        del epsilons
        if state.clip_norm is None or state.round in self.recorded:
            return None
        charges = len(self._intents)
        return PrivacySpent(
            round=state.round,
            epsilon=self.privacy.epsilon_after(charges),
            delta=self.privacy.delta,
            charges=charges,
            clip_norm=state.clip_norm,
        )


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
        fewest=least_survivors(privacy.guaranteed) if privacy.guaranteed else None,
        continues=continues,
    )


@dataclass(frozen=True)
class PrivateFold(Fold):
    """The rule's outcome on the noised mean alone, which is all of the updates that it gets to see."""

    spool: Spool
    private: PrivateRounds

    def is_settled(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bool:
        """Whether the noise of a round is intended for just these updates; others would need, and pay for, another."""
        return self.private.is_intended(number, self._digest(state, number, accepted))

    def fold(self, state: RunState, context: RoundContext, stored: Mapping[str, Stored]) -> Folded:
        """Clip the updates, add them up in whole numbers, and noise the sum; raises as `PrivateRounds.intend`."""
        spool, private, number = self.spool, self.private, context.round
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
        noised, next_clip = mean.finish()
        delta = scattered(noised, sent, context.geometry.layout)
        outcome = outcome_of_mean(spool.rule, context, delta, "the noised mean")
        return Folded(outcome, folded, keep=lambda before: replace(before, clip_norm=next_clip))

    def _digest(self, state: RunState, number: int, accepted: tuple[str, ...]) -> bytes:
        """SHA-256 of everything that the sum of a round is made of."""
        privacy = self.private.privacy
        size = size_of(self.spool.sent(number))
        settings = (privacy.noise_multiplier, privacy.clients, self._clip_norm(state, size), size)
        digest = hashlib.sha256(repr((state.run_id.hex(), number, settings, len(accepted))).encode())
        digest.update(state.shadow.digest())
        for client in accepted:
            digest.update(hashlib.sha256(client.encode()).digest())
            # Of its numbers alone: what else an update states, such as times, does not matter to the sum.
            stored = self.spool.load(number, client)
            digest.update(read_envelope(stored, max_bytes=len(stored)).payload_digest)
        return digest.digest()

    def _clip_norm(self, state: RunState, size: int) -> float:
        return self.private.privacy.first_clip(size) if state.clip_norm is None else state.clip_norm
