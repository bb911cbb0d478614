"""What was unmasked and evaluated of one data set in one federation, over all runs; and whom an honest server invites.

Sums over different clients are equations. Two sums share no client, or one lies within the other, with at least `least`
clients more and fewer than twice as many: then whatever is added up or subtracted is of `least` clients or more. A
client refuses to unmask a sum that breaks this

- with another sum of losses, whatever the adapter and the held-out part: losses change little;
- with another sum of updates from the same adapter;
- with sums of updates of the same run more than `most` times because of the same client.

In runs that draw other clients for each round only the first two hold, and the consent text states so.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from plait.errors import PolicyError
from plait.guarantees import LEAST_CLIENTS
from plait.rounds.data_journal import DataJournal, damaged
from plait.wire.masked_roster import MaskedAttempt

Clients: TypeAlias = frozenset[str]


@dataclass(frozen=True)
class _Sum:
    """A sum that this client is in, or may be, of numbers made from the adapter with this digest."""

    series: str
    received: str
    clients: Clients


@dataclass(eq=False)
class SumJournal:
    """The sums in a journal.

    Attributes:
        least: the fewest clients in a masked sum, and in what follows from several.
        most: times that another client may be in or out of a run's sums of updates besides; None for any number.
    """

    journal: DataJournal
    least: int = 1
    most: int | None = None
    _read: int = field(default=0, init=False)
    _closed: dict[str, int] = field(default_factory=dict[str, int], init=False)
    _sums: dict[tuple[str, str, int], _Sum] = field(default_factory=dict[tuple[str, str, int], _Sum], init=False)

    def check_open(self, session: MaskedAttempt) -> None:
        """Refuse an attempt at a sum that was unmasked before."""
        self._recall()
        if session.round <= self._closed.get(session.series, -1):
            raise PolicyError(
                f"round {session.round} was unmasked before ({session.purpose}), by the journal of this client's data"
            )

    def check_sum(self, session: MaskedAttempt, received: bytes, clients: Collection[str]) -> None:
        """Refuse to help unmask a sum that reveals few clients."""
        self._recall()
        now, purpose = frozenset(clients), session.purpose
        advice = "; to take part, lower min-masked-clients in the file given with --policy"
        if len(now) < self.least:
            raise PolicyError(f"the masked sum has {len(now)} clients, expected at least {self.least}{advice}")
        for before in self._same(purpose, received):
            if not are_apart(now, before, self.least):
                raise PolicyError(
                    f"the masked sum is of {len(now)} clients, an earlier one of {len(before)}, {len(now & before)} of "
                    f"them in both, expected the same or, within it, at least {self.least} fewer and more than half: "
                    f"else several sums give the part of a few{advice}"
                )
        if purpose != "train" or self.most is None:
            return
        in_run = [each.clients for each in self._sums.values() if each.series == session.series]
        changes = changes_in([*in_run, now], self.least)
        client, times = max(changes.items(), key=lambda change: change[1], default=("", 0))
        if times > self.most:
            raise PolicyError(
                f"{client!a} would be in or out of the run's masked sums {times} times, but max-repeats of this "
                f"client's policy allows {self.most} for each client: their differences show its part. To take part, "
                "wait until all are there, or raise it in the file given with --policy"
            )

    def _same(self, purpose: str, received: bytes) -> set[Clients]:
        """The clients of each earlier sum of the same numbers."""
        return {
            each.clients
            for (kind, _, _), each in self._sums.items()
            if (kind == "train") is (purpose == "train") and (kind != "train" or each.received == received.hex())
        }

    def note_sum(
        self, session: MaskedAttempt, received: bytes, clients: Iterable[str], *, is_sure: bool = True
    ) -> None:
        """Record a sum before this client helps to unmask it, or once others may have done so without it."""
        self.journal.add(
            {
                "unmasked": session.purpose,
                "run": session.run_id.hex(),
                "round": session.round,
                "received": received.hex(),
                "clients": sorted(clients),
                "sure": is_sure,
            }
        )

    def _recall(self) -> None:
        entries = self.journal.entries()
        for entry in entries[self._read :]:
            if "unmasked" not in entry:
                continue
            try:
                purpose, number = str(entry["unmasked"]), int(entry["round"])
                series = f"{entry['run']} {purpose}"
                found = _Sum(series, str(entry["received"]), frozenset(map(str, entry["clients"])))
                if entry.get("sure", True):
                    self._closed[series] = max(number, self._closed.get(series, -1))
            except (ValueError, KeyError, TypeError) as error:
                raise damaged() from error
            key = purpose, series, number
            self._sums[key] = found if entry.get("sure", True) else self._sums.get(key, found)
        self._read = len(entries)


def are_apart(one: Clients, other: Clients, least: int) -> bool:
    """Whether no two sums of these clients, nor any of all sums between which this holds, give the part of a few."""
    small, large = sorted((one, other), key=len)
    is_within = small < large and len(small) + least <= len(large) < 2 * len(small)
    return small == large or small.isdisjoint(large) or is_within


def changes_in(sums: Sequence[Clients], least: int) -> Counter[str]:
    """How often each client was in or out of sums beside those that are apart from each other, the most frequent."""
    kept, changes = list[Clients](), Counter[str]()
    for clients, times in sorted(Counter(sums).items(), key=lambda each: (-each[1], -len(each[0]), sorted(each[0]))):
        if all(are_apart(clients, other, least) for other in kept):
            kept.append(clients)
        else:
            nearest = min(kept, key=lambda other: len(other ^ clients))
            changes.update(dict.fromkeys(nearest ^ clients, times))
    return changes


def evaluators_of(
    clients: Sequence[str],
    present: Collection[str],
    *,
    earlier: Sequence[Clients],
    declined: Collection[Clients],
    least: int,
    order: bytes,
) -> tuple[str, ...]:
    """The clients to invite, by name; none where every sum would reveal a few clients.

    Some clients would not unmask a sum of those that are `declined`, because of what an earlier run evaluated.
    """
    here = frozenset(present)
    if again := [known for known in earlier if known <= here and known not in declined]:
        return tuple(sorted(max(again, key=len)))
    leaving = sorted(clients, key=lambda name: hashlib.sha256(order + name.encode()).digest())
    # Those of no earlier sum first.
    leaving.sort(key=lambda name: any(name in known for known in earlier))
    for out in range(len(leaving) - least + 1):
        chosen = frozenset(leaving[out:])
        # One that came or went made a sum that was declined; without two more it is three apart from the earlier one.
        is_another = all(len(chosen ^ other) >= LEAST_CLIENTS - 1 for other in declined)
        if is_another and all(are_apart(chosen, other, LEAST_CLIENTS) for other in earlier):
            return tuple(sorted(chosen))
    return ()
