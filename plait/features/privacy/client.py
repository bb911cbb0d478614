"""Differential privacy at one client: what it pays before it trains, and what it has paid in earlier runs."""

from __future__ import annotations

from dataclasses import replace

from plait.config import RunConfig
from plait.features.privacy.client_charge import ClientCharge
from plait.features.privacy.mechanism import ClientPrivacy
from plait.features.privacy.run import privacy_of, tasks
from plait.features.privacy.spent_journal import SpentJournal
from plait.rounds.client_way import ClientWay, Speaker
from plait.rounds.data_journal import DataJournal


def client_way(way: ClientWay, config: RunConfig, speaker: Speaker) -> ClientWay:
    """The way of a client whose data pay for a run."""
    told = tasks(config)
    return paying(way, speaker, privacy_of(config), of_records="record_delta" in told, is_noised=bool(told))


def paying(
    way: ClientWay, speaker: Speaker, private: ClientPrivacy | None, *, of_records: bool, is_noised: bool
) -> ClientWay:
    """The way of a client that pays.

    Args:
        private: what the run's noise promises of whole clients; None without such noise.
        is_noised: whether the client adds noise, so that nothing else is said of its data.
    """
    hooks = (*way.hooks, ClientCharge(speaker, private)) if private else way.hooks
    way = replace(way, hooks=hooks, is_open=way.is_open and not is_noised)
    if not of_records:
        return way
    from plait.features.privacy.record_charge import RecordCharge

    charge = RecordCharge(speaker)
    return replace(way, hooks=(*way.hooks, charge), agree=charge.agree)


def spent(journal: DataJournal, account: str) -> float:
    """Epsilon of all runs together, but for that of an account."""
    return SpentJournal(journal).spent(besides=account)
