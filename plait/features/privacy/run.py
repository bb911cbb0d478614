"""Differential privacy in one run: its guarantee, its noise, what tasks say of it, and what its ledger begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from plait.config import RunConfig
from plait.errors import PeerError
from plait.features.privacy.events import PrivacyStarted, intents_in, promised_in, spent_in
from plait.features.privacy.key import RunKey
from plait.features.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.features.privacy.private_rounds import PrivateRounds, check_promise, recomputed, started
from plait.rounds.opening import Opening
from plait.rounds.run_plan import RunPlan
from plait.rounds.way import CannotRecomputeError, Host, Way

_LARGEST_DELTA = 1e-5
# Of the updates' norms, which an adaptive clip norm follows.
_CLIP_QUANTILE = 0.5


def privacy_of(config: RunConfig) -> ClientPrivacy | None:
    """Differential privacy of a run's clients; None without.

    Raises:
        ConfigError: its epsilon takes too much noise.
    """
    said = vars(config)
    if said.get("dp") != "client":
        return None
    epsilon, delta = said["dp_epsilon"], said["dp_delta"]
    guaranteed = config.fewest_together(config.cohort_size)
    return ClientPrivacy(
        noise_multiplier=said["dp_noise_multiplier"]
        or multiplier_for(epsilon, delta, config.rounds, guaranteed=guaranteed),
        delta=delta,
        epsilon=epsilon or None,
        clients=config.cohort_size,
        clip_norm=None if said["dp_clip"] == "adaptive" else said["dp_clip"],
        quantile=_CLIP_QUANTILE,
        largest_step=config.learning_rate * config.local_steps,
        guaranteed=guaranteed,
    )


def settles(config: RunConfig) -> Mapping[str, object]:
    """The delta of the guarantee, where none is given.

    Raises:
        ConfigError: its epsilon takes too much noise.
    """
    said = vars(config)
    if said["dp"] == "off":
        return {}
    most = min(_LARGEST_DELTA, 0.1 / config.clients) if said["dp"] == "client" else _LARGEST_DELTA
    settled = {"dp_delta": said["dp_delta"] or most}
    privacy_of(config.model_copy(update=settled))
    return settled


def tasks(config: RunConfig) -> Mapping[str, object]:
    """What a client has to know to add noise."""
    said = vars(config)
    if said["dp"] == "record":
        return {
            "record_delta": said["dp_delta"],
            "record_epsilon": said["dp_epsilon"],
            "record_noise": said["dp_noise_multiplier"],
            "record_clip": 0.0 if said["dp_clip"] == "adaptive" else said["dp_clip"],
        }
    privacy = privacy_of(config)
    if privacy is None or not privacy.guaranteed:
        return {}
    return {
        "client_noise": privacy.noise_multiplier,
        "client_clip": privacy.clip_norm or 0.0,
        "client_cohort": privacy.clients,
    }


def way(way: Way, config: RunConfig, plan: RunPlan) -> Way:
    """The way of a run whose rounds cost privacy."""
    if vars(config)["dp"] == "record":
        from plait.features.privacy.record_costs import RecordCosts

        told = spent_in(way.host.events) if way.host else frozenset[int]()
        return replace(way, costs=RecordCosts(plan.settings, told=told, masked=plan.settings.under_masks))
    privacy = privacy_of(config)
    if privacy is None or way.host is None:
        return way
    return with_private(way, _rounds(privacy, way.host))


def with_private(way: Way, private: PrivateRounds) -> Way:
    """The way of a run with private clients; where these add the noise, its fold is that of their sums."""
    from plait.features.privacy.private_fold import PrivateFold

    folding = way.folding if private.privacy.guaranteed else partial(PrivateFold, private=private)
    return replace(way, costs=private, folding=folding)


def _rounds(privacy: ClientPrivacy, host: Host) -> PrivateRounds:
    """The noise of a run's rounds."""
    key = None
    if not privacy.guaranteed:
        if host.recomputes and not host.directory.noise_key.exists():
            raise CannotRecomputeError("its noise key is not here")
        key = RunKey.load(host.directory.noise_key)
    if host.recomputes:
        promised = promised_in(host.events)
        if promised is None:
            raise PeerError("config.toml and ledger differ on differential privacy, expected them to agree")
        return recomputed(privacy, key, promised, intents_in(host.events))
    return PrivateRounds(
        privacy,
        key,
        intents=intents_in(host.events),
        record=host.record,
        told=spent_in(host.events),
    )


def opens(config: RunConfig, opening: Opening) -> PrivacyStarted | None:
    """The event that says what a new run promises; its noise key is made, if the server adds noise.

    Raises:
        PlaitError: a run that goes on has no noise key, or promised other noise.
    """
    privacy = privacy_of(config)
    if opening.events:
        _check_goes_on(privacy, opening)
        return None
    if vars(config)["dp"] == "off":
        return None
    if privacy is None:
        from plait.features.privacy import record_accountant

        return record_accountant.started(
            opening.settings,
            clients=config.cohort_size,
            size=opening.size,
            continues=opening.continues,
            regions=opening.regions,
        )
    key = None if privacy.guaranteed else RunKey.create(opening.directory.noise_key)
    fewest = config.fewest_together(privacy.guaranteed) if privacy.guaranteed else 0
    return started(privacy, key, size=opening.size, fewest=fewest, continues=opening.continues, regions=opening.regions)


def _check_goes_on(privacy: ClientPrivacy | None, opening: Opening) -> None:
    if privacy is None:
        return
    if not privacy.guaranteed:
        RunKey.load(opening.directory.noise_key)
    if promised := promised_in(opening.events):
        check_promise(privacy, promised)
