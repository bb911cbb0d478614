"""What a client may spend of its data, by its operator's policy: over all runs, as the journal of its data says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plait.features.privacy.spent_journal import SpentJournal
from plait.rounds.client_way import Speaker


@dataclass(frozen=True)
class Purse:
    """What one client may spend; without a policy and a journal, as in a simulation, whatever a run needs."""

    speaker: Speaker

    @property
    def most_of_run(self) -> float:
        """Largest epsilon of the run; 0 for any."""
        terms = self.speaker.terms
        return terms.policy.most_epsilon_of_run if terms and terms.policy else 0.0

    def check(self, epsilon: Callable[[], float]) -> None:
        """Refuse a run that would cost too much in the end.

        Raises:
            PolicyError: all runs together would have spent too much.
        """
        terms, journal = self.speaker.terms, self._journal
        if journal and terms and terms.policy:
            journal.check_budget(self._account, epsilon(), terms.policy.most_epsilon)

    def pay(self, epsilon: float, delta: float) -> None:
        """Record what the run will have spent of the client's data, before anything leaves.

        Raises:
            PolicyError: all runs together would have spent too much.
        """
        terms, journal = self.speaker.terms, self._journal
        if journal and terms and terms.policy:
            journal.charge(self._account, epsilon, delta, terms.policy.most_epsilon)

    @property
    def _journal(self) -> SpentJournal | None:
        return SpentJournal(self.speaker.journal) if self.speaker.journal else None

    @property
    def _account(self) -> str:
        return self.speaker.own_secret.account
