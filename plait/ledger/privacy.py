"""What a private run promises and has spent, event by event and in words, and what several runs cost together.

Gaussian mechanisms compose in closed form (`plait.guarantees`). Of private records a ledger has epsilons alone, which
compose by adding epsilons and deltas (Dwork et al., EUROCRYPT 2006). `plait verify` recomputes the figures. The events
of a client that withdraws are here, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar, Self

from plait.errors import ConfigError
from plait.guarantees import epsilon_at, epsilon_of, sum_term
from plait.ledger.events import Audited, Count, Event, Number
from plait.system.text import Json, printable


class PrivacyStarted(Event):
    """The run has differential privacy."""

    event = "privacy_started"
    is_public = True
    unit: str  # what is hidden as a whole: a ``client``, or a ``record`` or ``group`` of records of one
    group: str = ""  # what a group is, such as ``patient``: the column that names it
    group_records: Count | None = None  # of one group in a step, at most
    adjacency: str = ""  # ``zero-out``: its updates or gradients are replaced by zero
    observer: str = ""  # from whom it is hidden
    epsilon: Number | None = None  # never exceeded
    delta: Number  # of the guarantee
    # a round costs what one Gaussian mechanism with noise of this multiple of its sensitivity costs; None of records,
    # where each client's follows from how many it has
    noise_multiplier: Number | None = None
    update_multiplier: Number | None = None  # noise of the sum of updates, over the clip norm
    # noise of the count that an adaptive clip norm follows; None for a fixed one
    count_multiplier: Number | None = None
    clip_quantile: Number | None = None  # that it follows; None likewise
    clip_norm: Number | None = None  # of round 1; of records, None where all gradients are scaled to one norm
    clients: Count  # number that the sum of a round is divided by
    parameters: Count = 0  # numbers in an update
    noise_over_clip: Number = 0.0  # norm of the noise in a round's mean, over the clip norm; 0 for records
    amplification: str = ""  # whether sampling is claimed to lower epsilon, and why
    # what the secret noise key must give (see `noise`); empty for records, whose keys are the clients'
    key_check: str = ""
    batch: Count | None = None  # records that a step is expected to draw
    steps: Count | None = None  # of a client in the whole run
    # clients whose own noise is in every sum of a whole round, where clients add it under masks
    guaranteed: Count | None = None
    fewest: Count | None = None  # of them whose noise is in any sum
    continues: bool = False  # whether the run starts from other runs' adapters, whose epsilons add up with its own

    @property
    def sections(self) -> "Mapping[str, PrivacyCard]":
        """The guarantee, and what is spent of it."""
        return {"privacy": PrivacyCard(self)}


class NoiseIntended(Event):
    """The noise of a round is about to be drawn; from here on it is paid for, whatever becomes of it."""

    event = "noise_intended"
    is_public = True
    round: Count
    # of its updates, readable with the noise key only; the same updates get the same noise. Where clients add the
    # noise, of the list of clients in the sum, which is about to be unmasked
    commitment: str
    clip_norm: Number  # that they are clipped to
    epsilon: Number  # of everything so far, this included


class PrivacySpent(Event):
    """What a run has spent after a round."""

    event = "privacy_spent"
    is_public = True
    round: Count
    epsilon: Number  # of everything so far; of records, the largest of any client's, or what no client goes beyond
    delta: Number
    # one per round, and one more wherever a round was drawn again for other updates; None for records
    charges: Count | None = None
    clip_norm: Number | None = None  # of the next round; None for records
    # epsilon of each client's records so far, by the accounts of those that took part
    by_client: Mapping[str, Number] = {}

    @property
    def is_known(self) -> bool:
        """Whether epsilon is what was spent, and not the most that clients can spend who do not report it."""
        return self.charges is not None or bool(self.by_client)

    @property
    def logged(self) -> Mapping[str, float | None]:
        """Epsilon, and the clip norm of the next round."""
        return {"privacy/epsilon": self.epsilon if self.is_known else None, "privacy/clip_norm": self.clip_norm}


class ClientWithdrawn(Event):
    """A client withdraws; from here on the adapter that it took part in is not released."""

    event = "client_withdrawn"
    client: str
    first_round: Count = 0  # the first round that its update counted in; 0 if none did
    way: str = "exact"  # ``exact``: the others train again; ``promised``: differential privacy of clients covers it


class Withdrawn(Event):
    """The tombstone: the withdrawal is complete."""

    event = "withdrawn"
    client: str
    way: str = "exact"  # as in `ClientWithdrawn`
    adapter: str = ""  # digest of the adapter that takes the place of the old one; empty where the old one stays
    run: str = ""  # id of the run that made it, in hexadecimal; empty where none did
    erased: tuple[str, ...] = ()  # files of the client's that were removed, in the run's directory
    by: str = ""  # the operator who signed; empty if unsigned
    certificate: str = ""  # the operator's, in PEM
    signature: str = ""  # by its key, in hexadecimal, over the canonical JSON of old run, client, way, adapter and run


def intents_in(events: Sequence[Event]) -> tuple[NoiseIntended, ...]:
    """Every draw of noise that a private run has paid for."""
    return tuple(event for event in events if isinstance(event, NoiseIntended))


def promised_in(events: Sequence[Event]) -> PrivacyStarted | None:
    """What a run promised about privacy; None without."""
    return next((event for event in events if isinstance(event, PrivacyStarted)), None)


def spent_in(events: Sequence[Event]) -> frozenset[int]:
    """Rounds after which a ledger records what was spent."""
    return frozenset(event.round for event in events if isinstance(event, PrivacySpent))


_MOST_OF_NAME = 40

WORTH_WARNING = 3.0
"""Noise over clip norm from which on there is next to nothing to learn from."""

WORTH_WARNING_OF_RECORDS = 10.0
"""The same of the noise in a step's mean of all clients, where single records are protected."""

MECHANISM = "Gaussian noise, independent in every round; epsilon holds even for a client that joins all of them"
"""What noise a run with private clients has."""

NOT_COVERED: tuple[str, ...] = (
    "the server itself, which sees every update: its operator, its spool, checkpoints and noise key",
    "who took part, when, and that a client failed",
    "what is known of the data otherwise: the names of labels, the choice of settings after looking at it",
    "single records of a client any better than the client as a whole",
    "facts about people that hold whether or not their client takes part",
)
"""What the guarantee does not cover."""

SHARED_NOT_COVERED: tuple[str, ...] = (
    "clients whose program adds no noise: this cannot be checked from outside, and their shares are missing",
    *NOT_COVERED[1:],
)
"""The same where clients add the noise under masks."""

RECORDS_NOT_COVERED: tuple[str, ...] = (
    "people with several records: the epsilon of k records together is k times as large",
    "how many records a client has, who took part, when and for how long, and that a client failed",
    "whether a client adds its noise: this cannot be checked from outside",
    "other runs on the same records, whose epsilons add up, and settings chosen by looking at the records",
    "facts about people that hold whether or not their record is there",
)
"""The same where single records are protected."""

CONTINUES = (
    "the runs that this one started from: on the same data their epsilons add up with its own (plait privacy RUN RUN…)"
)
"""The same where a run starts from other runs' adapters."""


@dataclass(frozen=True)
class PrivacyCard:
    """The guarantee of a run, and what it has spent, as far as the run has come; its audit, if that was recorded."""

    promised: PrivacyStarted
    spent: PrivacySpent | None = None
    audited: Audited | None = None

    @classmethod
    def of(cls, recorded: Sequence[Event]) -> Self | None:
        """The card of a ledger's events; None for a run without differential privacy."""
        promised = promised_in(recorded)
        return reduce(cls.after, recorded, cls(promised)) if promised else None

    def after(self, event: Event) -> Self:
        """The card once one more event is known."""
        match event:
            case NoiseIntended():
                # Paid for, even if the run never records the end of the round.
                number, delta = event.round, self.promised.delta
                spent = PrivacySpent(round=number, epsilon=event.epsilon, delta=delta, charges=self.draws + 1)
                return replace(self, spent=spent)
            case PrivacySpent():
                return replace(self, spent=event)
            case Audited():
                return replace(self, audited=event)
            case _:
                return self

    @property
    def epsilon(self) -> float:
        """Spent so far."""
        return self.spent.epsilon if self.spent else 0.0

    @property
    def draws(self) -> int:
        """Of noise, so far."""
        return (self.spent.charges if self.spent else 0) or 0

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What the guarantee does not cover."""
        continues = (CONTINUES,) if self.promised.continues else ()
        shared = SHARED_NOT_COVERED if self.promised.guaranteed else NOT_COVERED
        if self.promised.unit == "group":
            return (*continues, f"a {self.group} at several clients: the epsilons add up", *RECORDS_NOT_COVERED[1:])
        return continues + (RECORDS_NOT_COVERED if self.is_of_records else shared)

    @property
    def group(self) -> str:
        """What is protected as a whole, in a word."""
        return printable(self.promised.group, limit=_MOST_OF_NAME) or self.promised.unit

    title: ClassVar[str] = "Differential privacy"
    hides_clients: ClassVar[bool] = True

    @property
    def headline(self) -> str:
        """With what the run was trained, and what that hides."""
        return (
            f"with {self.group}-level differential privacy: {self.epsilon_text}. Losses on the clients' data "
            "stay with the clients."
        )

    @property
    def trust(self) -> tuple[str, str]:
        """What is spent, and of what."""
        return self.epsilon_text, f"{self.group}-level differential privacy. "

    @property
    def status(self) -> Mapping[str, Json]:
        """Of a run that goes on."""
        promised = self.promised
        return {
            "unit": promised.unit,
            "epsilon": self.epsilon,
            "budget": promised.epsilon,
            "delta": promised.delta,
            "text": f"{self.epsilon_text}, by {self.group}",
        }

    def line(self, event: Event) -> str:
        """What a round has cost; nothing where only the clients know."""
        if not isinstance(event, PrivacySpent) or not event.is_known:
            return ""
        return f"round {event.round:<3} {self.epsilon_text}"

    @property
    def is_of_records(self) -> bool:
        """Whether single records are protected, from the server too."""
        return self.promised.unit in ("record", "group")

    @property
    def epsilon_text(self) -> str:
        """Epsilon and delta in a few words."""
        budget = self.promised.epsilon
        if self.spent and not self.spent.is_known:
            return f"epsilon of at most {self.epsilon:.3g} at delta {self.promised.delta:g}"
        of = f" of {budget:g}" if budget is not None else ""
        return f"epsilon {self.epsilon:.3g}{of} at delta {self.promised.delta:g}"

    @property
    def bound_text(self) -> str:
        """What canary clients, or guesses about groups, prove; empty if that was not recorded."""
        audited = self.audited
        if audited is None or audited.epsilon_bound is None:
            return ""
        groups = f"{audited.members + audited.others:,} {audited.unit}" if audited.group else ""
        return (
            f"{groups or f'{audited.canaries:,} canary clients'} prove epsilon of at least {audited.epsilon_bound:.3g} "
            f"with 95 % certainty (perfect guesses would prove {audited.epsilon_most or 0:.3g})"
        )

    @property
    def warning(self) -> str:
        """One sentence, if the noise leaves next to nothing to learn from; else empty."""
        if self.promised.noise_over_clip <= WORTH_WARNING:
            return ""
        return (
            f"The noise in a round's mean is {self.promised.noise_over_clip:.3g} times the clip norm: expect no useful "
            "adapter. More clients per round, fewer parameters or a larger epsilon help."
        )

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What is promised, fact by fact."""
        facts = self._of_records if self.is_of_records else self._of_clients
        return tuple((name, text) for name, text in facts if text)

    @property
    def _of_records(self) -> Sequence[tuple[str, str]]:
        promised = self.promised
        known = len(self.spent.by_client) if self.spent else 0
        spent = f", the most of {known} clients' own accounts" if known else ""
        if self.spent and not self.spent.is_known:
            spent = ", where each client's own account ends; under masks none reports what it has spent so far"
        clip, group = promised.clip_norm, self.group
        is_group = promised.unit == "group"
        plural = f"groups ('{group}')" if is_group else "records"
        most = f", at most {promised.group_records or 0:,} in a step" if is_group else ""
        protected = (
            f"everything that all records of one {group} at a client{most}, changed in all rounds together"
            if is_group
            else "everything that one record of a client changed in all rounds together; a record is a sequence"
        )
        return [
            ("Protected", protected),
            ("From", f"{promised.observer}: its client adds the noise before anything leaves it"),
            ("Spent", self.epsilon_text + spent),
            ("Neighbours", f"{promised.adjacency}: one {group}'s gradient is replaced by zero in all steps"),
            ("Amplification by sampling", promised.amplification),
            ("Steps of a client", f"{promised.steps:,}, each of {promised.batch:,} {plural} on average"),
            ("Clip norm", f"{clip:.3g}" if clip else "all gradients are scaled to one norm"),
            ("Noise of a step, over the clip norm", f"follows from epsilon and how many {plural} a client has"),
            ("Audit bound", self.bound_text),
            *(("Not covered", text) for text in self.not_covered),
        ]

    @property
    def _of_clients(self) -> Sequence[tuple[str, str]]:
        promised = self.promised
        draws = self.draws
        clip = f"{promised.clip_norm or 0:.3g}"
        if promised.clip_quantile is not None:
            clip = f"follows quantile {promised.clip_quantile:g} of the clients' norms, from {clip} on"
        return [
            ("Protected", f"everything that one {promised.unit}'s data changed, in all rounds together"),
            ("From", f"{promised.observer}: anyone who sees adapters, broadcasts, ledger and report"),
            ("Spent", f"{self.epsilon_text}, {draws} draw{'s' * (draws != 1)} of noise"),
            ("If clients reveal their noise", self._if_clients_reveal),
            ("Audit bound", self.bound_text),
            ("Neighbours", f"{promised.adjacency}: one {promised.unit}'s updates are replaced by zero"),
            ("Mechanism", MECHANISM),
            ("Amplification by sampling", promised.amplification),
            ("Clip norm", clip),
            ("Noise multiplier of a round", f"{promised.noise_multiplier or 0:.4g}"),
            ("Noise in a round's mean, over the clip norm", f"{promised.noise_over_clip:.3g}"),
            *(("Not covered", text) for text in self.not_covered),
        ]

    @property
    def _if_clients_reveal(self) -> str:
        """Epsilon where clients help the server; empty where they add no noise."""
        promised = self.promised
        if not promised.guaranteed or not promised.fewest:
            return ""
        # A roster may have as few clients as a sum of a whole round, and its sum fewer again.
        fewest = promised.fewest
        most = max(1, 2 * fewest - promised.guaranteed - 1)
        charges, noise = max(1, self.draws), promised.noise_multiplier or math.nan
        found = (epsilon_of(promised.delta, charges, noise, guaranteed=fewest, colluding=count) for count in (1, most))
        one, many = (f"{epsilon:.3g}" for epsilon in found)
        more = f", {many} where {most} do" if most > 1 else ""
        return f"epsilon {one} where 1 of at least {fewest} in a sum does, or adds none{more}"


def spent_by_round(events: Mapping[str, Sequence[Event]]) -> dict[int, PrivacySpent]:
    """What a run had spent after each round."""
    return {each.round: each for each in events.get("privacy_spent", ()) if isinstance(each, PrivacySpent)}


@dataclass(frozen=True)
class Together:
    """The guarantee of several runs, for a client that took part in all; of records, of the client with the most."""

    epsilon: float
    delta: float
    how: str


def together(cards: Mapping[str, PrivacyCard]) -> Together:
    """What runs on the same clients or records cost together."""
    runs = list(cards.values())
    kinds = {card.promised.unit for card in runs}
    if len(kinds) > 1:
        units = ", ".join(f"'{name}' {card.promised.unit}s" for name, card in cards.items())
        raise ConfigError(f"{units}: these runs protect different things; give runs of one kind")
    if runs[0].is_of_records:
        return _of_records(runs)
    mu = math.sqrt(
        math.fsum(card.draws / (card.promised.noise_multiplier or math.nan) ** 2 for card in runs if card.draws)
    )
    delta = min(card.promised.delta for card in runs)
    # How far sums of clients' own noise are from Gaussian mechanisms.
    apart = math.fsum(card.draws * sum_term(card.promised.guaranteed) for card in runs if card.promised.guaranteed)
    epsilon = epsilon_at(delta * math.exp(-apart), mu) + 2 * apart
    return Together(epsilon, delta, f"Gaussian mechanisms compose exactly: mu = {mu:.4g}, the root of the sum of mu²")


def _of_records(cards: Sequence[PrivacyCard]) -> Together:
    totals: dict[str, float] = {}
    of_all = 0.0
    for card in cards:
        if card.spent and not card.spent.by_client:
            # Under masks no client reports what it has spent: no more than the run's epsilon.
            of_all += card.spent.epsilon
        for client, epsilon in (card.spent.by_client if card.spent else {}).items():
            totals[client] = totals.get(client, 0.0) + epsilon
    epsilon = of_all + max(totals.values(), default=0.0)
    delta = math.fsum(card.promised.delta for card in cards)
    return Together(epsilon, delta, "epsilons and deltas of a client's accounts are added up")
