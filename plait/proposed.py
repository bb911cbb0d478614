"""A run as a client's operator is asked about it, and what features say of it (`Feature.proposes`)."""

from __future__ import annotations

from dataclasses import dataclass

from plait.config import RunConfig
from plait.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """A run that a server asks for.

    Attributes:
        config: its settings, as the server says them.
        parameters: of the adapter; None if the base is not here yet.
        spent: what earlier runs have cost the data in this federation.
    """

    config: RunConfig
    policy: Policy
    parameters: int | None = None
    spent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a feature says of it.

    Attributes:
        promised: what is promised to this client, and what its data have paid.
        is_noised: whether clients add noise to all that they say of their data.
        under_masks: whether it leaves them under masks.
        seen: what the server learns of an update; empty where the feature changes nothing about that.
        bits: for each parameter of an update; None for those of the run's wire.
    """

    promised: tuple[str, ...] = ()
    is_noised: bool = False
    under_masks: bool = False
    seen: tuple[str, ...] = ()
    bits: float | None = None
