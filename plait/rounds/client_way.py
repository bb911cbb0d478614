"""The way of a client: how what it says leaves it, and what its data's budget pays for.

The core's says everything in the open and pays for nothing. Features have parts of their own; `client_way_of` picks
them by what the settings say, and imports no others. `plait.rounds.way` is the server's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from plait.errors import PolicyError
from plait.rounds.hook import Hook
from plait.rounds.local_model import DataSize
from plait.rounds.memory import Memory
from plait.rounds.saying import InTheOpen, Saying
from plait.rounds.terms import Terms
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.privacy.mechanism import ClientPrivacy
    from plait.rounds.client_secret import ClientSecret
    from plait.rounds.data_journal import DataJournal
    from plait.rounds.masked_rounds import MaskedRounds
    from plait.rounds.masking import NodeIdentity


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
    """A client with all that the parts of its way need.

    Attributes:
        memory: survives between tasks.
        sign: makes a signature of 64 bytes; without it updates are not signed.
        terms: its agreement; None if it accepts any task.
        identity: for sums under masks; without one they are refused.
        journal: of its data, over all runs; None where there is none, as in a simulation.
        secret: of the run; if None, one is drawn and kept in `memory` when it is needed.
    """

    name: str
    memory: Memory
    _: KW_ONLY
    sign: Callable[[bytes], bytes] | None = None
    terms: Terms | None = None
    identity: NodeIdentity | None = None
    journal: DataJournal | None = None
    secret: ClientSecret | None = None


def client_way_of(
    settings: Settings, speaker: Speaker, *, private: ClientPrivacy | None = None, masked: MaskedRounds | None = None
) -> ClientWay:
    """The way of a client.

    Args:
        settings: of the run.
        speaker: the client.
        private: what the run's noise promises of whole clients; None without such noise.
        masked: with secure aggregation; None if the fewest clients of a sum are not known.

    Raises:
        PolicyError: a share of noise is asked for without masks.
    """
    if settings.adds_share and not settings.secure_aggregation:
        raise PolicyError("an update with a share of the noise is asked for without masks, expected a masked sum")
    saying: Saying = InTheOpen(speaker.name, speaker.sign)
    hooks: tuple[Hook, ...] = ()
    agree = _agree_to_all
    if private:
        from plait.rounds.client_charge import ClientCharge

        hooks = (ClientCharge(speaker, private),)
    if settings.records_are_private:
        from plait.rounds.record_charge import RecordCharge

        charge = RecordCharge(speaker)
        hooks, agree = (*hooks, charge), charge.agree
    if settings.secure_aggregation:
        from plait.rounds.under_masks import UnderMasks

        saying = UnderMasks.of(speaker, private=private, masked=masked)
    return ClientWay(saying, hooks, agree, is_open=not (settings.counts_stay or settings.is_noised))
