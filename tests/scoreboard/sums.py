"""Sums that a server designs to solve them for one client, judged by linear algebra over all that were unmasked.

Each client has a journal of its own sums alone. A sum is unmasked where as many clients are willing as must sign, and
the server shows it to no more than these, so that others know nothing of it. Sums of the same numbers may give no
combination of one or two clients. Of sums of updates from different adapters each has noise of its own: no combination
may give one client's part with less noise than so many pairs of sums do as each journal lets through.
Another row is the claim of `tests/plait/secagg` for sums of every size.
"""

import itertools
import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scoreboard.row import Row

from plait.errors import PolicyError
from plait.guarantees import least_survivors
from plait.secagg.journal import SumJournal
from plait.secagg.stages import seated
from plait.wire.masked_roster import MaskedAttempt
from tests.plait.privacy.test_client import Kept
from tests.plait.secagg.attacked_sums import claims

LEAST, MOST = 3, 3
NAMES = "abcdefghijklm"


def run(*, full: bool, scratch: Path) -> Row:
    del scratch
    ways = {
        **{f"losses of {name}": partial(_same_numbers, "evaluate", design) for name, design in DESIGNS.items()},
        **{
            f"updates from one adapter: {name}": partial(_same_numbers, "train", design)
            for name, design in DESIGNS.items()
        },
        **{
            f"losses, drawn {seed}": partial(_same_numbers, "evaluate", partial(_drawn, seed))
            for seed in range(40 if full else 6)
        },
        **{f"rounds: {name}": partial(_rounds, design) for name, design in ROUNDS.items()},
        **{
            f"rounds, drawn {seed}": partial(_rounds, partial(_drawn, seed, fewest=6))
            for seed in range(20 if full else 3)
        },
        "groups of an honest server": _honest_groups,
    }
    return Row.of("sums that a server designs", {name: way() for name, way in ways.items()}, least=25)


def _unmasked(purpose: str, design: Iterable[str], received: Callable[[int], bytes], most: int | None) -> list[str]:
    """The sums of a design that are unmasked, in one run."""
    journals = {name: SumJournal(Kept(), LEAST, most) for name in NAMES}
    generator, sums = random.Random(7), list[str]()
    for number, clients in enumerate(design):
        session = MaskedAttempt(b"one run of these", purpose, number, bytes(16))
        need, roster = least_survivors(len(clients)), clients
        # Once the roster is known, and once it is known whose numbers have come.
        clients = "".join(n for n in roster if _is_willing(journals[n], session, received(number), roster))
        willing = [name for name in clients if _is_willing(journals[name], session, received(number), clients)]
        if len(willing) < need:
            continue  # The server knows, and does not ask.
        asked = generator.sample(willing, need)
        sums.append(clients)
        for name in clients:
            # Whoever was not asked to unmask its numbers knows no more than whom they may have been added up with.
            journals[name].note_sum(session, received(number), clients, is_sure=name in asked)
    return sums


def _is_willing(journal: SumJournal, session: MaskedAttempt, received: bytes, clients: str) -> bool:
    try:
        journal.check_sum(session, received, clients)
    except PolicyError:
        return False
    return True


def _adapter(number: int) -> bytes:
    """Another in each round, as one is that a server moves by a millionth."""
    return number.to_bytes(32, "big")


def _same_numbers(purpose: str, design: Callable[[], Iterable[str]]) -> str:
    received = _adapter if purpose == "evaluate" else lambda _: bytes(32)
    sums = _unmasked(purpose, design(), received, None)
    part = next((part for count in (1, 2) for part in itertools.combinations(NAMES, count) if _gives(sums, part)), "")
    return f"{len(sums)} sums give the part of {''.join(part)}" if part else "" if sums else "no sum at all"


def _gives(sums: Sequence[str], part: Sequence[str]) -> bool:
    """Whether a combination of the sums is of these clients alone."""
    matrix = _matrix(sums)
    others = [place for place, name in enumerate(NAMES) if name not in part]
    return np.linalg.matrix_rank(matrix[:, others]) < np.linalg.matrix_rank(matrix)


def _rounds(design: Callable[[], Iterable[str]]) -> str:
    sums = _unmasked("train", design(), _adapter, MOST)
    noise = {name: _noise(sums, name) for name in NAMES}
    name = min(noise, key=lambda each: noise[each])
    # Of so many sums with a client and any number without it.
    return f"{len(sums)} sums give {name} with {noise[name]:.3f} of one's noise" if noise[name] < 1 / (MOST + 1) else ""


def _noise(sums: Sequence[str], name: str) -> float:
    """The noise of the best combination of the sums that is of one client, where each sum has that of 1."""
    matrix, wanted = _matrix(sums), np.array([float(each == name) for each in NAMES])
    weights = np.linalg.pinv(matrix.T) @ wanted
    return float(weights @ weights) if np.allclose(matrix.T @ weights, wanted, atol=1e-6) else np.inf


def _matrix(sums: Sequence[str]) -> np.ndarray:
    return np.array([[float(name in clients) for name in NAMES] for clients in sums] or [[0.0] * len(NAMES)])


def _honest_groups() -> str:
    """Thirty rounds of three groups, of which now and then a client is away."""
    names = [f"client-{number}" for number in range(27)]
    seats: dict[str, int] = {}
    sums: list[frozenset[str]] = []
    for number in range(30):
        seats = seated(names, 3, key=str(number), before=seats)
        sums += [frozenset(name for name in names if seats[name] == group) for group in range(3)]
    return "" if len(set(sums)) == 3 else f"{len(set(sums))} sets of clients in {len(sums)} sums"


def _drawn(seed: int, fewest: int = LEAST) -> Iterator[str]:
    """Sets of any clients, half of them near to one before."""
    generator, sets = random.Random(seed), list[str]()
    for _ in range(300):
        clients = set(generator.sample(NAMES, generator.randint(fewest, len(NAMES))))
        if sets and generator.random() < 0.5:
            clients = set(generator.choice(sets)) ^ set(generator.sample(NAMES, generator.randint(0, 3)))
        if len(clients) >= fewest:
            sets.append("".join(sorted(clients)))
            yield sets[-1]


# Each client finds those that it is in harmless.
DESIGNS: Mapping[str, Callable[[], Iterable[str]]] = {
    "three sets": lambda: ("abc", "ade", "bcde"),
    "all but one": lambda: (NAMES, NAMES[1:], NAMES[:-1]),
    "two halves without one": lambda: ("abcdefg", "abc", "def"),
    "the lines of a plane": lambda: ("abc", "ade", "afg", "bdf", "beg", "cdg", "cef"),
    "four sets of thirds": lambda: ("abcdefg", "ahijklm", "efghij", "bcdklm"),
    "well within each other": lambda: (NAMES, NAMES[3:], NAMES[6:], NAMES[:3] + NAMES[6:]),
    "two that differ in two": lambda: ("abcdefgh", "abcdefij", "abcdefgij"),
}
ROUNDS: Mapping[str, Callable[[], Iterable[str]]] = {
    "every second without one": lambda: [NAMES, NAMES[1:]] * 40,
    "twenty with one, twenty without it": lambda: [NAMES] * 20 + [NAMES[1:]] * 40,
    "every second without one and another": lambda: [
        each for other in NAMES[1:] * 4 for each in (NAMES.replace(other, ""), NAMES[1:].replace(other, ""))
    ],
    "three sets": lambda: ["abcdefghi", "abcdjklm", "efghijklm"] * 30,
    "three of which each has one less": lambda: ["bcdefghijklm", "acdefghijklm", "abdefghijklm", NAMES] * 20,
}

SIZES, LARGEST = (*range(3, 12), 30, 101, 256, 257, 350, 500, 1999), 2000


def sizes(*, full: bool, scratch: Path) -> Row:
    """Masked sums of 3 to 2,000 clients: a server without help, with the most colluders, and with one more."""
    del scratch
    with multiprocessing.get_context("fork").Pool() as pool:
        found = pool.map(_of_size, range(3, LARGEST + 1) if full else SIZES, chunksize=1)
    complaints = [complaint for each in found for complaint in each]
    return Row.of("masked sums by size", complaints, least=18_000 if full else 140, largest=LARGEST)


def _of_size(count: int) -> list[str]:
    return list(claims(count))
