"""What differential privacy costs one client over all runs, by its operator's policy and the journal of its data.

A client refuses what would bring epsilon of all runs together above the most that is allowed. Client-level noise costs
all rounds of a run, and updates that are given again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from plait.errors import PolicyError
from plait.privacy.mechanism import ClientPrivacy
from plait.rounds.client_pipeline import ClientContext
from plait.rounds.data_journal import DataJournal, damaged
from plait.rounds.hooks import Hook
from plait.rounds.local_model import TrainJob
from plait.rounds.terms import TaskHistory

_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class SpentJournal:
    """What a client's data have cost by their journal, of which `account` is that of one run.

    All runs together may cost `most`; 0 for any amount.
    """

    journal: DataJournal
    account: str
    most: float = 0.0

    @classmethod
    def of(cls, speaker: ClientContext) -> Self | None:
        """That of a client's run; None without a policy and a journal, as in a simulation."""
        if not (speaker.journal and speaker.terms and speaker.terms.policy):
            return None
        return cls(speaker.journal, speaker.own_secret.account, speaker.terms.policy.most_epsilon)

    def earlier(self) -> float:
        """Epsilon of all other runs together, by adding it up."""
        return sum(epsilon for account, epsilon in self._spent().items() if account != self.account)

    def check(self, epsilon: float) -> None:
        """Refuse a run that would bring epsilon of all runs together above the most."""
        others = self.earlier()
        if self.most and others + epsilon > self.most * _SLACK:
            raise PolicyError(
                f"the run would bring epsilon of this client's data in this federation to {others + epsilon:.4g}, "
                f"{others:.4g} of it in earlier runs, but max-total-epsilon of this client's policy (where it is 0, "
                f"dp-max-epsilon) allows {self.most:g} over all runs; to take part, raise it in the file given with "
                "--policy"
            )

    def pay(self, epsilon: float, delta: float) -> None:
        """Record what the run will have spent, before anything leaves."""
        self.check(epsilon)
        if epsilon > self._spent().get(self.account, 0.0):
            self.journal.add({"spent": self.account, "epsilon": epsilon, "delta": delta})
            # Another process may have paid since it was looked at; what is written stays.
            self.check(epsilon)

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
class ClientCharge(Hook):
    """The hook: a client pays for what the run's noise promises of it before it trains."""

    speaker: ClientContext
    privacy: ClientPrivacy

    def before(self, job: TrainJob) -> TrainJob:
        """Pay; training knows nothing of it."""
        if job.settings.adds_share and not job.settings.secure_aggregation:
            raise PolicyError(
                "an update with a share of the noise is requested without masks: it may only leave in a masked sum"
            )
        self.pay()
        return job

    def pay(self) -> None:
        """Pay for the whole run."""
        spent, terms = SpentJournal.of(self.speaker), self.speaker.terms
        if spent and terms:
            rounds = terms.tasks.plan.rounds + TaskHistory.recall(self.speaker.memory).repeats
            spent.pay(self.privacy.epsilon_after(rounds), self.privacy.delta)
