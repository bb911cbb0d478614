"""Secure aggregation in one run: its sums, what they take on the wire, and a client's part in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from plait.adapters.methods import method_named
from plait.config import RunConfig
from plait.features.secagg.masked_rounds import MaskedRounds, noised_grid
from plait.rounds.client_way import ClientWay, Speaker
from plait.rounds.links import Links
from plait.rounds.run_plan import RunPlan
from plait.rounds.way import Way
from plait.trust.identity import Vouch

if TYPE_CHECKING:
    from plait.features.privacy.mechanism import ClientPrivacy


def is_noised(config: RunConfig) -> bool:
    """Whether clients add noise to what they send under masks."""
    return vars(config).get("dp") == "client"


def noise_of(config: RunConfig) -> ClientPrivacy | None:
    """The noise of which clients add their shares under their masks; None without."""
    if not is_noised(config):
        return None
    from plait.features.privacy.run import privacy_of

    return privacy_of(config)


def masked_of(config: RunConfig) -> MaskedRounds:
    """The sums of a run."""
    rate = config.learning_rate or method_named(config.method).learning_rate_at(config.rank)
    quorum = math.ceil(config.quorum * config.cohort_size)
    return MaskedRounds(config.cohort_size, rate * config.local_steps, config.eval_clients, quorum, noise_of(config))


def tasks(config: RunConfig) -> Mapping[str, object]:
    """That what clients say leaves them under masks."""
    return {"secure_aggregation": vars(config)["secure_aggregation"]}


def way(way: Way, config: RunConfig, plan: RunPlan) -> Way:
    """The way of a run whose server sees sums."""
    del plan
    vouch = way.host.vouch if way.host else None
    return with_sums(way, masked_of(config), vouch or (lambda _claim: False))


def with_sums(way: Way, masked: MaskedRounds, vouch: Vouch) -> Way:
    """The same, of these sums."""
    from plait.features.secagg.masked_collector import MaskedCollector
    from plait.features.secagg.masked_fold import MaskedFold

    return replace(
        way,
        collecting=partial(MaskedCollector, masked=masked, vouch=vouch),
        folding=partial(MaskedFold, masked=masked),
        least=masked.least("train"),
    )


def client_way(way: ClientWay, config: RunConfig, speaker: Speaker) -> ClientWay:
    """The way of a client that speaks under masks."""
    return under_masks(way, speaker, masked_of(config))


def under_masks(way: ClientWay, speaker: Speaker, masked: MaskedRounds | None) -> ClientWay:
    """The same, with these sums; None if the fewest clients of a roster are not known."""
    from plait.features.secagg.under_masks import UnderMasks

    return replace(way, saying=UnderMasks.of(speaker, masked), is_open=False)


def links(links: Links, config: RunConfig, size: int, *, evaluates: bool) -> Links:
    """What a run's updates take with the stages of its sums beside them.

    Raises:
        ConfigError: no ring has room for the noise.
    """
    masked, sums = masked_of(config), 2 if evaluates else 1
    if masked.privacy:
        noised_grid(masked.privacy, size, 1.0)
    return replace(
        links,
        up=masked.bits_up(size, sums=sums, certified=True),
        more_down=masked.more_bits_down(size, sums=sums, certified=True),
        is_rounded=True,
    )
