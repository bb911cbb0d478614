"""Which of a client's records are held out: whole groups by a keyed hash, and nothing that training text repeats.

A group is what one value of a column names, such as a person, or without such a column a document. Where a group
belongs depends on its name alone: it stays there as records come and go, in later runs, and at other clients. Records
that are sequences by themselves, and texts of few documents, have no such groups: their last part is held out, so that
later data is predicted from earlier data.

Of a client with many records half of what is held out is its *judge part*, by another hash of group, document or
record. Decisions follow from the other half alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plait.data import Record
from plait.data.records import groups_of
from plait.errors import TooLittleDataError
from plait.training.examples import IGNORED, Example, Split, in_proportion, spread

WINDOW = 24
"""Tokens of the windows by which repeated text is found."""
# So many documents must be held out on average, or the end of the text is.
_LEAST_DOCUMENTS = 2
_KEY, _JUDGE_KEY = b"plait: what is held out", b"plait: what judges"
# Groups or records on each side of the judge part: fewer give no standard error.
_LEAST_JUDGED = 4
_CHUNK = 1 << 20
# Odd, so that multiplication loses nothing (Knuth, The Art of Computer Programming 3, 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Make = Callable[[Sequence[Record]], list[Example]]
"""Makes examples of records; each names the record that it begins in by `Example.record`."""


@dataclass(frozen=True)
class HoldingOut:
    """How a client's data is split.

    Attributes:
        column: of the groups; empty where each record is its own.
        packs: whether sequences go on from one record to the next.
        by_label: whether every class is held out in proportion.
        keeps_repeated: whether text is held out that is also trained on, as where nothing is measured on it.
        judge_part: records from which on there is a judge part; 0 for none.
    """

    client: str
    seq_len: int
    fraction: float
    most: int
    column: str = ""
    packs: bool = False
    by_label: bool = False
    keeps_repeated: bool = False
    judge_part: int = 0

    def split(self, records: Sequence[Record], held_out: Sequence[Record], make: Make) -> Split:
        """The parts of a client's records; of `held_out`, where the data says so.

        Raises:
            DataError: a record has no group.
            TooLittleDataError: one part is empty.
        """
        judges, owners = self._judges([*records, *held_out]), self._owners([*records, *held_out])
        train, rest = self._sides(records, held_out, make, judges)
        every = (*train, *rest)
        repeated = [] if self.keeps_repeated else repeats(train, rest)
        if len(repeated) < len(rest):
            again = [rest[place] for place in repeated]
            rest = [example for place, example in enumerate(rest) if place not in set(repeated)]
            # Of a group nothing is on both sides.
            train = train if self.column else [*train, *again]
        for part, what in ((train, "training"), (rest, "held-out")):
            if not part:
                raise TooLittleDataError(
                    f"client {self.client!r} has too little {what} data: no sequence of {self.seq_len} tokens"
                )
        sides = tuple([each for each in rest if judges[each.record] is side] for side in (False, True))
        if any(len({owners[each.record] for each in side}) < _LEAST_JUDGED for side in sides):
            sides = rest, list[Example]()
        held, judge = (spread(side, self.most, by_label=self.by_label) for side in sides)
        clusters, judge_clusters = ([owners[each.record] for each in part] for part in (held, judge))
        return Split(
            tuple(train),
            held,
            groups=tuple(owners[each.record] for each in train) if self.column else (),
            clusters=_shared(clusters),
            judge=judge,
            judge_clusters=_shared(judge_clusters),
            cut=sum(each.is_cut for each in every),
            left_out=0 if self.packs else len(records) + len(held_out) - len(every),
            repeated=len(repeated),
        )

    def _sides(
        self, records: Sequence[Record], held_out: Sequence[Record], make: Make, judges: Sequence[bool]
    ) -> tuple[list[Example], list[Example]]:
        """What trains and what is held out, before repeated text is looked for."""
        if held_out:
            of_train = set(groups_of(records, self.column)) if self.column else set[str]()
            kept = [
                place
                for place, group in enumerate(groups_of(held_out, self.column) if self.column else held_out)
                if group not in of_train
            ]
            every = [*records, *held_out]
            return make(records), self._held(every, [len(records) + at for at in kept], make, judges)
        places = self._places(records)
        train, rest = ([], []) if places is None else self._by_place(records, places, make, judges)
        if self.column or (train and rest):
            return train, rest
        examples = make(records)
        if self.by_label:
            examples = [examples[index] for index in in_proportion(examples, lambda: 0.5)]
        first = len(examples) - max(1, round(len(examples) * self.fraction))
        if first < 1:
            raise TooLittleDataError(
                f"client {self.client!r} has too little data: {len(examples)} sequences of at most {self.seq_len} "
                "tokens, expected at least 2 (one to train on, one held out); add text, or lower --seq-len"
            )
        return examples[:first], [*spread(examples[first:], len(examples), by_label=self.by_label)]

    def _by_place(
        self, records: Sequence[Record], places: NDArray[np.float64], make: Make, judges: Sequence[bool]
    ) -> tuple[list[Example], list[Example]]:
        """Whole groups on either side, by their places."""
        order = np.unique(places)
        count = min(max(1, int((order < self.fraction).sum())), len(order) - 1)
        while True:
            is_held = places < order[count]
            trained = np.flatnonzero(~is_held).tolist()
            train = _at(make([records[at] for at in trained]), trained)
            rest = self._held(records, np.flatnonzero(is_held).tolist(), make, judges)
            # Groups may be too short for a sequence.
            if rest or count >= len(order) - 1:
                return train, rest
            count = min(2 * count, len(order) - 1)

    def _held(
        self, records: Sequence[Record], chosen: Sequence[int], make: Make, judges: Sequence[bool]
    ) -> list[Example]:
        """Examples of some records, none of which goes on from one that decides to one that judges."""
        sides = [[at for at in chosen if judges[at] is side] for side in (False, True)] if self.packs else [chosen]
        return [example for side in sides for example in _at(make([records[at] for at in side]), side)]

    def _places(self, records: Sequence[Record]) -> NDArray[np.float64] | None:
        """Where each record's group is in the order by which groups are held out, 0 to 1; None without groups."""
        if not self.column and not self.packs:
            return None
        names = groups_of(records, self.column) if self.column else [record.content for record in records]
        different = len(set(names))
        if self.column and different < 2:
            raise TooLittleDataError(
                f"client {self.client!r} has too little data: 1 group by column '{self.column}', expected at least 2 "
                "(one to train on, one held out)"
            )
        if not self.column and different * self.fraction < _LEAST_DOCUMENTS:
            return None
        return np.asarray([place_of(name) for name in names])

    def _judges(self, records: Sequence[Record]) -> list[bool]:
        """Whether each record is of the half that judges, if it is held out."""
        if not 0 < self.judge_part <= len(records):
            return [False] * len(records)
        names = groups_of(records, self.column) if self.column else [record.content for record in records]
        return [place_of(name, key=_JUDGE_KEY) < 1 / 2 for name in names]

    def _owners(self, records: Sequence[Record]) -> list[int]:
        """The number of each record's group."""
        names = groups_of(records, self.column) if self.column else range(len(records))
        numbers: dict[str | int, int] = {}
        return [numbers.setdefault(name, len(numbers)) for name in names]


def place_of(group: str, *, key: bytes = _KEY) -> float:
    """Where a group is in the order by which groups are held out, from 0 to 1: by its name alone."""
    digest = hashlib.blake2b(group.encode(errors="surrogatepass"), key=key, digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


def _shared(clusters: Sequence[int]) -> tuple[int, ...]:
    """The cluster of each sequence; empty if no two share one."""
    return tuple(clusters) if len(set(clusters)) < len(clusters) else ()


def _at(examples: Sequence[Example], places: Sequence[int]) -> list[Example]:
    """Examples of some records, with the places that these have among all."""
    return [replace(example, record=places[example.record]) for example in examples]


def repeats(train: Sequence[Example], held_out: Sequence[Example]) -> list[int]:
    """The places of held-out sequences that training text repeats.

    A sequence is repeated if training has the same, or more than half of its windows of `WINDOW` tokens; of windows
    count those that end in a token to be learned. What is found counts as training text for the others.
    """
    known = {example.tokens.tobytes() for example in train}
    each = [_windows(example) for example in held_out]
    wanted = np.unique(np.concatenate([*each, np.empty(0, np.uint64)]))
    is_known = np.zeros(len(wanted), bool)

    def learn(windows: NDArray[np.uint64]) -> None:
        at = np.minimum(np.searchsorted(wanted, windows), max(len(wanted) - 1, 0))
        is_known[at[wanted[at] == windows]] = True

    if len(wanted):
        waiting, size = list[NDArray[np.int32]](), 0
        for example in train:
            waiting.append(example.tokens)
            size += len(example.tokens)
            if size >= _CHUNK:
                learn(_hashed(np.concatenate(waiting)))
                waiting, size = waiting[-1:], 0
        learn(_hashed(np.concatenate([*waiting, np.empty(0, np.int32)])))
    found: set[int] = set()
    while True:
        new = [
            place
            for place, example in enumerate(held_out)
            if place not in found and (example.tokens.tobytes() in known or _most(is_known, wanted, each[place]))
        ]
        if not new:
            return sorted(found)
        found.update(new)
        for place in new:
            known.add(held_out[place].tokens.tobytes())
            learn(each[place])


def _most(is_known: NDArray[np.bool_], wanted: NDArray[np.uint64], windows: NDArray[np.uint64]) -> bool:
    return bool(len(windows)) and 2 * int(is_known[np.searchsorted(wanted, windows)].sum()) > len(windows)


def _windows(example: Example) -> NDArray[np.uint64]:
    """The windows of a sequence that end in a token to be learned."""
    windows = _hashed(example.tokens)
    if len(example.labels) != len(example.tokens):
        return windows
    return windows[(example.labels != IGNORED)[WINDOW - 1 :]]


def _hashed(tokens: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A number for each window of tokens, equal for equal windows."""
    count = max(0, len(tokens) - WINDOW + 1)
    found = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(WINDOW if count else 0):
            found = (found ^ tokens[offset : offset + count].astype(np.uint64)) * _MULTIPLIER
            found ^= found >> np.uint64(29)
    return found
