"""What differential privacy costs one client over all runs, by its operator's policy and the journal of its data.

A client refuses what would bring epsilon of all runs together above the most that is allowed. Client-level noise costs
all rounds of a run, and updates that are given again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plait.errors import PolicyError
from plait.privacy.mechanism import ClientPrivacy
from plait.rounds.client_pipeline import ClientContext
from plait.rounds.data_journal import DataJournal, damaged
from plait.rounds.hooks import Hook
from plait.rounds.local_model import TrainJob
from plait.rounds.memory import Kept
from plait.rounds.terms import TaskHistory

_SLACK = 1 + 1e-9


@dataclass(eq=False)
class SpentJournal:
    """The epsilon that a journal records."""

    journal: DataJournal

    def spent(self, *, besides: str = "") -> float:
        """Epsilon of all runs together, by adding it up."""
        return sum(epsilon for account, epsilon in self._spent().items() if account != besides)

    def check_budget(self, account: str, epsilon: float, most: float) -> None:
        """Refuse what would bring epsilon of all runs together above the most, 0 for any amount."""
        others = self.spent(besides=account)
        if most and others + epsilon > most * _SLACK:
            raise PolicyError(
                f"the run would bring epsilon of this client's data in this federation to {others + epsilon:.4g}, "
                f"{others:.4g} of it in earlier runs, but max-total-epsilon of this client's policy (where it is 0, "
                f"dp-max-epsilon) allows {most:g} over all runs; to take part, raise it in the file given with --policy"
            )

    def charge(self, account: str, epsilon: float, delta: float, most: float) -> None:
        """Pay for what a run will have spent, before it is sent."""
        self.check_budget(account, epsilon, most)
        if epsilon > self._spent().get(account, 0.0):
            self.journal.add({"spent": account, "epsilon": epsilon, "delta": delta})
            # Another process may have paid since it was looked at; what is written stays.
            self.check_budget(account, epsilon, most)

    def _spent(self) -> dict[str, float]:
        """Epsilon by account."""
        found: dict[str, float] = {}
        for entry in self.journal.entries():
            if "spent" not in entry:
                continue
            try:
                account, epsilon = str(entry["spent"]), float(entry["epsilon"])
            except (ValueError, KeyError, TypeError) as error:
                raise damaged() from error
            found[account] = max(epsilon, found.get(account, 0.0))
        return found


@dataclass(frozen=True)
class Purse:
    """What one client may spend; without a policy and a journal, as in a simulation, whatever a run needs."""

    speaker: ClientContext

    @property
    def most_of_run(self) -> float:
        """Largest epsilon of the run; 0 for any."""
        terms = self.speaker.terms
        return terms.policy.most_epsilon_of_run if terms and terms.policy else 0.0

    def check(self, epsilon: Callable[[], float]) -> None:
        """Refuse a run that would cost too much in the end."""
        if known := self._known:
            journal, account, most = known
            journal.check_budget(account, epsilon(), most)

    def pay(self, epsilon: float, delta: float) -> None:
        """Record what the run will have spent of the client's data, before anything leaves."""
        if known := self._known:
            journal, account, most = known
            journal.charge(account, epsilon, delta, most)

    @property
    def _known(self) -> tuple[SpentJournal, str, float] | None:
        """The journal, the run's account in it, and the most that all runs may spend."""
        speaker, terms = self.speaker, self.speaker.terms
        if not (speaker.journal and terms and terms.policy):
            return None
        return SpentJournal(speaker.journal), speaker.own_secret.account, terms.policy.most_epsilon


@dataclass(frozen=True)
class ClientCharge(Hook):
    """The hook: a client pays for what the run's noise promises of it before it trains."""

    speaker: ClientContext
    privacy: ClientPrivacy

    def before(self, job: TrainJob, kept: Kept) -> TrainJob:
        """Pay; training knows nothing of it."""
        del kept
        if job.settings.adds_share and not job.settings.secure_aggregation:
            raise PolicyError(
                "an update with a share of the noise is requested without masks: it may only leave in a masked sum"
            )
        self.pay()
        return job

    def pay(self) -> None:
        """Pay for the whole run."""
        if self.speaker.terms:
            rounds = self.speaker.terms.tasks.plan.rounds + TaskHistory.recall(self.speaker.memory).repeats
            Purse(self.speaker).pay(self.privacy.epsilon_after(rounds), self.privacy.delta)
