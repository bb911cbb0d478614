"""What was unmasked and evaluated of one data set in one federation, over all runs; and whom an honest server invites.

A client refuses:

- to unmask a sum whose clients differ in fewer than `least` from those of an earlier sum of the same numbers: the
  difference would be that of so few. Training from one adapter gives the same numbers, but for batches and rounding.
  Losses change little from adapter to adapter, so all evaluations count as the same numbers.
- a sum from which, together with earlier ones, that of fewer than `least` clients follows by more than one subtraction.
- to evaluate an adapter again for other clients.

A third of a sum's clients may have lost their journals: each sum takes the shares of two thirds. So that clients need
not refuse, those of an earlier evaluation are invited again, of the largest; where one of them is gone, some others
stay out with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from plait.errors import PolicyError
from plait.features.secagg.roster import LEAST_CLIENTS, Session
from plait.rounds.data_journal import DataJournal, damaged

_PRIME = (1 << 61) - 1


@dataclass(frozen=True)
class _Sum:
    """A sum that this client helped to unmask, of numbers made from the adapter with this digest."""

    received: str
    clients: frozenset[str]


@dataclass(eq=False)
class SumJournal:
    """The sums in a journal; `least` is the fewest clients in a masked sum, and in the difference of two."""

    journal: DataJournal
    least: int = 1
    _read: int = field(default=0, init=False)
    _closed: dict[str, int] = field(default_factory=dict[str, int], init=False)
    _sums: dict[str, list[_Sum]] = field(default_factory=dict[str, list[_Sum]], init=False)

    def check_open(self, session: Session) -> None:
        """Refuse an attempt at a sum that was unmasked before."""
        self._recall()
        if session.round <= self._closed.get(session.series, -1):
            raise PolicyError(
                f"round {session.round} was unmasked before ({session.purpose}), expected a later one: this client's "
                "journal of its data says so"
            )

    def check_sum(self, session: Session, received: bytes, clients: Collection[str]) -> None:
        """Refuse to help unmask a sum that tells of few clients."""
        self._recall()
        now = frozenset(clients)
        advice = "; to take part, lower min-masked-clients in the file given with --policy"
        if len(now) < self.least:
            raise PolicyError(f"the masked sum has {len(now)} clients, expected at least {self.least}{advice}")
        if session.purpose == "evaluate":
            self._check_adapter(received, now)
        known = self._comparable(session.purpose, received)
        if now in known:
            return
        fewest = min((len(now ^ before) for before in known), default=self.least)
        if fewest < self.least:
            raise PolicyError(
                f"the masked sum differs from an earlier one in {fewest} clients, expected at least {self.least}: "
                f"the difference would be their part{advice}"
            )
        fewest = fewest_apart([*known, now])
        if fewest < self.least:
            raise PolicyError(
                f"with earlier ones the masked sum gives that of {fewest} clients, expected at least {self.least}"
                f"{advice}"
            )

    def _check_adapter(self, received: bytes, clients: frozenset[str]) -> None:
        before = (each for each in self._sums.get("evaluate", ()) if each.received == received.hex())
        if any(each.clients != clients for each in before):
            raise PolicyError(
                "the adapter was evaluated before with other clients, expected another one or the same clients: the "
                "difference of both sums would be a few clients' loss"
            )

    def _comparable(self, purpose: str, received: bytes) -> set[frozenset[str]]:
        """The clients of each earlier sum of the same numbers, or nearly the same."""
        earlier = self._sums.get(purpose, ())
        return {each.clients for each in earlier if purpose == "evaluate" or each.received == received.hex()}

    def note_sum(self, session: Session, received: bytes, clients: Iterable[str]) -> None:
        """Record a sum before this client helps to unmask it."""
        self.journal.add(
            {
                "unmasked": session.purpose,
                "run": session.run_id.hex(),
                "round": session.round,
                "received": received.hex(),
                "clients": sorted(clients),
            }
        )

    def _recall(self) -> None:
        entries = self.journal.entries()
        for entry in entries[self._read :]:
            if "unmasked" not in entry:
                continue
            try:
                purpose, series = str(entry["unmasked"]), f"{entry['run']} {entry['unmasked']}"
                self._closed[series] = max(int(entry["round"]), self._closed.get(series, -1))
                found = _Sum(str(entry["received"]), frozenset(map(str, entry["clients"])))
            except (ValueError, KeyError, TypeError) as error:
                raise damaged() from error
            self._sums.setdefault(purpose, []).append(found)
        self._read = len(entries)


def fewest_apart(sums: Sequence[frozenset[str]]) -> int:
    """The fewest clients whose part follows from these sums; exact up to two.

    The part of clients follows if it is orthogonal to all that is orthogonal to every sum. There one client's row is
    zero if its part follows, and two clients' rows are multiples of each other if a part of the two does. Of more than
    two, those of a row of the sums' reduced echelon form are counted. All modulo a large prime.
    """
    names = sorted(frozenset[str]().union(*sums))
    rows: dict[int, list[int]] = {}  # by the place of the leading 1
    for clients in sums:
        row = [int(name in clients) for name in names]
        for lead, other in rows.items():
            row = _less(row, other, row[lead])
        lead = next((place for place, value in enumerate(row) if value), None)
        if lead is None:
            continue
        inverse = pow(row[lead], -1, _PRIME)
        row = [value * inverse % _PRIME for value in row]
        rows = {at: _less(other, row, other[lead]) for at, other in rows.items()} | {lead: row}
    free = [place for place in range(len(names)) if place not in rows]
    apart = {place: [rows[place][at] for at in free] if place in rows else [int(at == place) for at in free]
             for place in range(len(names))}  # fmt: skip
    if not all(map(any, apart.values())):
        return 1
    if len({_direction(row) for row in apart.values()}) < len(names):
        return 2
    return min(sum(map(bool, row)) for row in rows.values())


def _direction(row: Sequence[int]) -> tuple[int, ...]:
    """The same for all multiples of a row."""
    inverse = pow(next(filter(None, row)), -1, _PRIME)
    return tuple(value * inverse % _PRIME for value in row)


def _less(row: Sequence[int], other: Sequence[int], times: int) -> list[int]:
    if not times:
        return list(row)
    return [(value - times * more) % _PRIME for value, more in zip(row, other, strict=True)]


Clients = frozenset[str]


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
    for out in range(len(leaving) - least + 1):
        chosen = frozenset(leaving[out:])
        # One that came or went made a sum that was declined; without two more it is three apart from the earlier one.
        is_another = all(len(chosen ^ other) >= LEAST_CLIENTS - 1 for other in declined)
        if is_another and _is_apart(chosen, earlier):
            return tuple(sorted(chosen))
    return ()


def _is_apart(chosen: Clients, earlier: Sequence[Clients]) -> bool:
    return all(len(chosen ^ other) >= LEAST_CLIENTS for other in earlier) and (
        fewest_apart([*dict.fromkeys(earlier), chosen]) >= LEAST_CLIENTS
    )
