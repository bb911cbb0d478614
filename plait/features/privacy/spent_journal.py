"""What was spent of one data set in one federation, over all runs: epsilons, by accounts that the client has named.

A client refuses an update that would bring epsilon of all runs together above the most that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import PolicyError
from plait.rounds.data_journal import DataJournal, damaged

_SLACK = 1 + 1e-9


@dataclass(eq=False)
class SpentJournal:
    """What a journal says of epsilon."""

    journal: DataJournal

    def spent(self, *, besides: str = "") -> float:
        """Epsilon of all runs together, by adding it up."""
        return sum(epsilon for account, epsilon in self._spent().items() if account != besides)

    def check_budget(self, account: str, epsilon: float, most: float) -> None:
        """Refuse what would bring epsilon of all runs together above the most.

        Args:
            most: that all runs may spend; 0 for any amount.

        Raises:
            PolicyError: it would.
        """
        others = self.spent(besides=account)
        if most and others + epsilon > most * _SLACK:
            raise PolicyError(
                f"the run would bring epsilon of this client's data in this federation to {others + epsilon:.4g}, "
                f"{others:.4g} of it in earlier runs, but max-total-epsilon of this client's policy (where it is 0, "
                f"dp-max-epsilon) allows {most:g} over all runs; to take part, raise it in the file given with --policy"
            )

    def charge(self, account: str, epsilon: float, delta: float, most: float) -> None:
        """Pay for what a run will have spent, before it is sent.

        Raises:
            PolicyError: it would be above the most.
        """
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
