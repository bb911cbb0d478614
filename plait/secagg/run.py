"""Secure aggregation in one run: its sums, what they take on the wire, what the ledger keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from plait.adapters.methods import method_named
from plait.config import RunConfig
from plait.ledger import events
from plait.ledger.events import Event
from plait.ledger.ledger import ALL, KEPT, screened
from plait.privacy.run import privacy_of
from plait.rounds.client_pipeline import ClientContext, ClientPipeline
from plait.rounds.coordinator import Way
from plait.rounds.run_plan import MessageBits
from plait.secagg.rounds import MaskedFold, MaskedRounds, noised_grid
from plait.trust.keys import Vouch


def masked_of(config: RunConfig) -> MaskedRounds:
    """The sums of a run."""
    rate = config.learning_rate or method_named(config.method).learning_rate_at(config.rank)
    quorum = math.ceil(config.quorum * config.cohort_size)
    return MaskedRounds(
        config.cohort_size,
        rate * config.local_steps,
        config.eval_clients,
        quorum,
        privacy_of(config),
        draws=config.cohort_size < config.clients,
    )


def way(way: Way, masked: MaskedRounds, vouch: Vouch) -> Way:
    """The way of a run whose server sees sums; `vouch` checks that a node key is the named client's."""
    # Here and below: a server loads no client, and a client no server.
    from plait.secagg.collector import MaskedCollector

    return replace(
        way,
        collecting=partial(MaskedCollector, masked=masked, vouch=vouch),
        folding=partial(MaskedFold, masked=masked),
        least=masked.least("train"),
    )


def client_way(way: ClientPipeline, masked: MaskedRounds, speaker: ClientContext) -> ClientPipeline:
    """The way of a client that speaks under masks."""
    from plait.secagg.masking import UnderMasks

    return replace(way, sender=UnderMasks(speaker, masked), is_open=False)


def links(links: MessageBits, config: RunConfig, size: int, *, evaluates: bool, certified: bool) -> MessageBits:
    """What a run's updates take with the stages of its sums beside them."""
    masked, sums = masked_of(config), 2 if evaluates else 1
    if masked.privacy:
        noised_grid(masked.privacy, size, 1.0)
    up, more_down = masked.link_bits(size, sums=sums, certified=certified)
    return replace(links, up=up, more_down=more_down)


KEPT_MASKED: Mapping[type[Event], frozenset[str]] = {
    **KEPT,
    # The mean alone: no client's own.
    events.Evaluated: frozenset(events.Evaluated.model_fields) - {"by_client"},
    events.NotPublished: ALL,
    events.UpdateReceived: frozenset(
        {"round", "client", "codec", "uplink_bytes", "payload_bytes", "bits_per_parameter"}
    ),
    events.ReplyReceived: frozenset({"round", "client", "purpose", "uplink_bytes"}),
    # In the server's words, of what it can see.
    events.UpdateRefused: ALL,
}
"""The same for a run with secure aggregation: the server knows no more than this of a client, and records no more."""


def screen() -> Callable[[Event], Event | None]:
    """What of an event is recorded."""
    return partial(screened, kept=KEPT_MASKED)
