"""Differential privacy in one run: its guarantee and noise, and what goes into tasks, policies and ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from plait.config import RunConfig
from plait.errors import PeerError
from plait.guarantees.thresholds import least_survivors
from plait.ledger import events
from plait.ledger.events import Event
from plait.ledger.ledger import ALL, KEPT, screened
from plait.ledger.privacy import PrivacyStarted, intents_in, promised_in, spent_in
from plait.privacy.client import ClientCharge
from plait.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.privacy.noise import RunKey
from plait.privacy.record import RecordCharge, RecordCosts, records_started
from plait.privacy.rounds import PrivateFold, PrivateRounds, check_promise, recomputed, started
from plait.rounds.client_pipeline import ClientContext, ClientPipeline
from plait.rounds.coordinator import CannotRecomputeError, Host, Way
from plait.rounds.run_plan import RunContext, RunPlan
from plait.wire.settings import Settings

_LARGEST_DELTA = 1e-5
# Of the updates' norms, which an adaptive clip norm follows.
_CLIP_QUANTILE = 0.5


def privacy_of(config: RunConfig) -> ClientPrivacy | None:
    """Differential privacy of a run's clients; None without."""
    if config.dp != "client":
        return None
    guaranteed = _fewest_together(config, config.cohort_size)
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


def _fewest_together(config: RunConfig, clients: int) -> int:
    """The fewest clients in a sum that the server sees, in a round of this many; 0 if it sees single updates."""
    if not config.secure_aggregation:
        return 0
    return least_survivors(clients)


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
    return way if privacy is None else with_private(way, private_rounds(privacy, host))


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


def with_private(way: Way, private: PrivateRounds) -> Way:
    """The way of a run with private clients; where these add the noise, its fold is that of their sums."""
    folding = way.folding if private.privacy.guaranteed else partial(PrivateFold, private=private)
    return replace(way, costs=private, folding=folding)


def private_rounds(privacy: ClientPrivacy, host: Host) -> PrivateRounds:
    """The noise of a run's rounds."""
    key = None
    if not privacy.guaranteed:
        if host.recomputes and not host.directory.noise_key.exists():
            raise CannotRecomputeError("its noise key is not here")
        key = RunKey.load(host.directory.noise_key)
    if host.recomputes:
        promised = promised_in(host.events)
        if promised is None:
            raise PeerError("config.toml and ledger differ on differential privacy")
        return recomputed(privacy, key, promised, intents_in(host.events))
    intents, recorded = intents_in(host.events), spent_in(host.events)
    return PrivateRounds(privacy, key, intents=intents, record=host.record, recorded=recorded)


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
    fewest = _fewest_together(config, privacy.guaranteed) if privacy.guaranteed else 0
    return started(privacy, key, size=opening.size, fewest=fewest, continues=opening.continues)


KEPT_OF_RECORDS: Mapping[type[Event], frozenset[str]] = {
    **KEPT,
    # An update has its noise already; what is left out of it is what its client measured.
    events.UpdateReceived: frozenset(
        {
            "round", "client", "uplink_bytes", "payload_bytes", "envelope_bytes", "codec", "bits_per_parameter",
            "digest", "norms", "signed", "signature", "epsilon", "clients",
        }
    ),
    events.ReplyReceived: frozenset({"round", "client", "purpose", "uplink_bytes"}),
    events.RoundFinished: ALL,
}  # fmt: skip
"""The same for a run with private records."""


def screen(config: RunConfig, update_bytes: int) -> Callable[[Event], Event | None] | None:
    """What of an event is recorded; None where the server sees sums alone, and so has no more to record."""
    unit = config.dp
    if unit == "off" or config.secure_aggregation:
        return None
    return partial(screened, kept=KEPT_OF_RECORDS) if unit == "record" else partial(screened, update_bytes=update_bytes)
