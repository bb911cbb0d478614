"""What several private runs on the same clients or records cost together.

Runs with private clients are Gaussian mechanisms, which compose in closed form, mu^2 = sum of mu_i^2 (see
`accountant`), also where a run starts from what another gave. Of private records a ledger has epsilons
alone, which compose by adding epsilons and deltas (Dwork et al., EUROCRYPT 2006): more than there is, never less.
Knows only the runs' cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait.errors import ConfigError
from plait.features.privacy.accountant import epsilon_at
from plait.features.privacy.card import PrivacyCard
from plait.features.privacy.sum_of_shares import sum_term


@dataclass(frozen=True)
class Together:
    """The guarantee of several runs.

    Attributes:
        epsilon: of all of them, for a client that took part in all; of records, of the client with the most.
    """

    epsilon: float
    delta: float
    how: str


def together(cards: Mapping[str, PrivacyCard]) -> Together:
    """What runs cost together.

    Args:
        cards: by run, at least one.

    Raises:
        ConfigError: some protect clients and others single records.
        PeerError: a ledger's noise makes no sense.
    """
    runs = list(cards.values())
    kinds = {card.is_of_records for card in runs}
    if len(kinds) > 1:
        units = ", ".join(f"'{name}' {card.promised.unit}s" for name, card in cards.items())
        raise ConfigError(f"{units}: these runs protect different things, expected runs of one kind")
    if kinds == {True}:
        return _of_records(runs)
    mu = math.sqrt(math.fsum(_mu(card) ** 2 for card in runs))
    delta = min(card.promised.delta for card in runs)
    # How far sums of clients' own noise are from Gaussian mechanisms.
    apart = math.fsum(_charges(card) * sum_term(card.promised.guaranteed) for card in runs if card.promised.guaranteed)
    epsilon = epsilon_at(delta * math.exp(-apart), mu) + 2 * apart
    return Together(epsilon, delta, f"Gaussian mechanisms compose exactly: mu = {mu:.4g}, the root of the sum of mu²")


def _of_records(cards: Sequence[PrivacyCard]) -> Together:
    totals: dict[str, float] = {}
    of_all = 0.0
    for card in cards:
        if card.spent and not card.spent.by_client:
            # Under masks no client says what it has spent: no more than the run's epsilon.
            of_all += card.spent.epsilon
        for client, epsilon in (card.spent.by_client if card.spent else {}).items():
            totals[client] = totals.get(client, 0.0) + epsilon
    epsilon = of_all + max(totals.values(), default=0.0)
    delta = math.fsum(card.promised.delta for card in cards)
    return Together(epsilon, delta, "epsilons and deltas of a client's accounts are added up")


def _mu(card: PrivacyCard) -> float:
    """Of a run with private clients, so far."""
    charges = _charges(card)
    return math.sqrt(charges) / (card.promised.noise_multiplier or math.nan) if charges else 0.0


def _charges(card: PrivacyCard) -> int:
    return (card.spent.charges if card.spent else 0) or 0
