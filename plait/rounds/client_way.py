"""The way of a client: how what it says leaves it, and what its data's budget pays for.

The core's says everything in the open and pays for nothing. A feature (`plait.feature`) exchanges parts of it for its
own, in the order of the features' names. `plait.rounds.way` is the server's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from plait.config import RunConfig
from plait.places import at
from plait.rounds.hook import Hook
from plait.rounds.local_model import DataSize
from plait.rounds.memory import Memory
from plait.rounds.saying import InTheOpen, Saying
from plait.rounds.terms import Terms
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.rounds.client_secret import ClientSecret
    from plait.rounds.data_journal import DataJournal
    from plait.trust.identity import NodeIdentity


def _agree_to_all(size: DataSize, settings: Settings) -> None:
    del size, settings


@dataclass(frozen=True)
class ClientWay:
    """The parts of a client that features exchange.

    Attributes:
        saying: how updates and losses leave it.
        hooks: nearest to training, so that they see all that it is made of.
        agree: refuses, before anything is trained, what the run would cost this client's data.
        is_open: whether nothing is held back, so that runs in which clients keep something to themselves are refused.
    """

    saying: Saying
    hooks: tuple[Hook, ...] = ()
    agree: Callable[[DataSize, Settings], None] = _agree_to_all
    is_open: bool = True


@dataclass(frozen=True)
class Speaker:
    """A client, with everything that the parts of its way need.

    Attributes:
        sign: makes a signature of 64 bytes; without it updates are not signed.
        terms: its agreement; None if it accepts any task.
        identity: by which other clients know it; None without one.
        journal: of its data, over all runs; None where there is none, as in a simulation.
        secret: of the run; if None, one is drawn and kept in `memory` when it is needed.
    """

    name: str
    memory: Memory
    _: KW_ONLY
    sign: Callable[[bytes], bytes] | None = None
    terms: Terms | None = None
    identity: Callable[[], NodeIdentity] | None = None
    journal: DataJournal | None = None
    secret: Callable[[], ClientSecret] | None = None

    @property
    def own_secret(self) -> ClientSecret:
        """Its secret of the run."""
        from plait.rounds.client_secret import ClientSecret

        return self.secret() if self.secret else ClientSecret.of(self.memory)


ClientExchanging: TypeAlias = Callable[[ClientWay, RunConfig, Speaker], ClientWay]
"""Puts parts of a feature's own into a client's way; what `Feature.client_way` names."""


def client_way_of(config: RunConfig | None, speaker: Speaker) -> ClientWay:
    """The way of a client.

    Args:
        config: settings of the run, which may ask for features; None for none.
    """
    way = ClientWay(InTheOpen(speaker.name, speaker.sign))
    if config:
        for exchange in (cast("ClientExchanging", at(each.client_way)) for each in config.wanted if each.client_way):
            way = exchange(way, config, speaker)
    return way
