"""The clients of a run: every node registers once, with its name, its amount of data and its base.

If nodes come and go, newcomers are asked while rounds continue, and a silent one is not waited for as long as enough
others can take part. Clients that cannot take part are recorded, with the reason and their own message, and asked again
once they reconnect.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from plait.errors import PeerError, check_abandoned
from plait.ledger import events
from plait.ledger.events import Reason
from plait.ledger.ledger import Ledger
from plait.rounds.channel import Channel, Data, Identity, Liveness, NoAnswer, Patience, Purpose
from plait.rounds.run_state import RankedAdapter, Ranks
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Refusal,
    RefusalReason,
    decode_reply,
    encode_task,
    packed_layout,
)
from plait.wire.settings import Settings

REPLY_BYTES = 1 << 20  # replies other than updates are a few names and numbers

MOST_TOKENS = 1 << 44
"""More than any client has (17 trillion): a count beyond it is a lie or a mistake."""

# Reasons that may pass, even if the client has not reconnected.
_PASSING = frozenset({RefusalReason.FAILED, RefusalReason.BUSY, RefusalReason.NEED_FULL})


class UnfitError(PeerError):
    """A client that cannot take part; `reason` is a code for the ledger: a `Reason`, or the client's own."""

    def __init__(self, reason: str, detail: str, *, client: str = "", passing: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.client, self.passing = str(reason), client, passing


def read_description(raw: Data | NoAnswer, *, node: int, identity: Identity | None) -> ClientCard:
    """Read a node's answer."""
    if isinstance(raw, NoAnswer):
        raise UnfitError(Reason.NO_ANSWER, raw.detail, passing=True)
    try:
        card = decode_reply(raw, max_bytes=REPLY_BYTES)
    except PeerError as error:
        raise UnfitError(Reason.MALFORMED, f"node {node}: {error}") from error
    if isinstance(card, Refusal):
        raise UnfitError(
            card.code,
            card.detail,
            client=identity.name if identity else card.client,
            passing=card.reason in _PASSING,
        )
    if not isinstance(card, ClientCard):
        raise UnfitError(Reason.MALFORMED, f"node {node} answered with {type(card).__name__}, expected a description")
    if identity and identity.name != card.client:
        raise UnfitError(
            Reason.WRONG_CLIENT,
            f"node of {identity.name!r} calls itself {card.client!r}: its name must be that of its key",
        )
    return card


def check_description(card: ClientCard, adapter: RankedAdapter, base: bytes, *, counts_stay: bool) -> None:
    """Check that a client can take part; with `counts_stay` it may not report how much data it has."""
    name = card.client
    if card.base_fingerprint != base:
        raise UnfitError(
            Reason.WRONG_BASE,
            f"base of client {name!r} is {card.base_fingerprint.hex()[:16]}, expected {base.hex()[:16]}",
        )
    if card.max_rank and adapter.rank > card.max_rank:
        raise UnfitError(
            Reason.RANK,
            f"client {name!r} supports rank {card.max_rank} at most, the run's is {adapter.rank}: give the run a lower "
            "--rank or --client-ranks, or the client a higher --max-rank",
        )
    if card.spec_digest != adapter.spec.digest:
        raise UnfitError(Reason.WRONG_SPEC, f"client {name!r} derives another adapter from the same spec and base")
    if not counts_stay or card.train_examples or card.held_out_examples or card.histogram:
        _check_counts(card)


def _check_counts(card: ClientCard) -> None:
    name = card.client
    for part, examples, tokens in (
        ("training", card.train_examples, card.train_tokens),
        ("held-out", card.held_out_examples, card.held_out_tokens),
        ("judge", card.judge_examples, card.judge_tokens),
    ):
        if not examples and part != "judge":
            raise UnfitError("too-little-data", f"client {name!r} has no {part} examples")
        if not examples <= tokens <= MOST_TOKENS:
            raise UnfitError(
                Reason.WEIGHT,
                f"client {name!r} states {examples} {part} examples of {tokens} tokens: impossible counts",
            )


MOST_QUESTIONS = 2
"""A node is asked about the largest rank, and then about its own."""

_PAUSE_S = 1.0
_MOST_NAMED = 8
_LOOKS_APART = 4


@dataclass(frozen=True)
class _Question:
    """A node that was asked to describe itself: for which track, when, and how often."""

    track: int
    at: float
    times: int = 1


@dataclass(frozen=True)
class _Unfit:
    """A node that cannot take part: its client, the reason, the connection, and when it is asked again regardless."""

    client: str
    reason: str
    detail: str
    visit: float
    again_at: float | None


@dataclass(frozen=True)
class Registered:
    """A client that can take part: its description, the index of its adapter, and its key if the driver knows it."""

    card: ClientCard
    track: int
    key: bytes


@dataclass(eq=False)
class RunRoster:
    """The clients of a run, as far as they can be reached, and the driver's number of each. Asks within ``with``."""

    channel: Channel
    ledger: Ledger
    settings: Settings
    ranks: Ranks
    base_fingerprint: bytes
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        self.nodes: dict[str, int] = {}
        self.clients: dict[str, Registered] = {}
        self._tasks = tuple(
            encode_task(DescribeTask(self.settings, adapter.spec.text, packed_layout(adapter.spec.layout)))
            for adapter in self.ranks.adapters
        )
        self._exchange = self.channel.exchange(Purpose.DESCRIBE, "0")
        self._liveness: dict[int, Liveness] = {}
        self._asked: dict[int, _Question] = {}
        self._unfit: dict[int, _Unfit] = {}
        self._once_fit: set[int] = set()
        self._recorded: dict[str, Registered] = {}
        self._recorded_unfit: dict[int, tuple[str, str]] = {}
        self._recorded_waiting: tuple[int, int, int] | None = None
        self._short_since: float | None = None
        self._is_first = True

    def __enter__(self) -> Self:
        self._exchange.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._exchange.__exit__(*error)

    def gather(
        self, at_least: int, *, enough: int | None = None, better: int = 0, deadline: float | None = None
    ) -> None:
        """Process descriptions, and wait until `at_least` clients can take part.

        Args:
            at_least: clients to wait for if nodes come and go.
            enough: continue with this many once the missing ones were waited for, or are connected and cannot take
                part; None before the run has begun. If all nodes are present from the start, this is the minimum.
            better: until the deadline (on the channel's clock; None for none) continue with no fewer than this.

        Raises:
            PeerError: all nodes are present from the start, and fewer than `enough` can take part. If they come and go,
                the ledger records it, and others are waited for.
        """
        if not self.channel.open_ended:
            self._gather_all(at_least if enough is None else enough)
            return
        while True:
            check_abandoned()
            started = time.monotonic()
            self._look()
            self._listen(0.0)
            in_time = deadline is None or self.channel.clock.now() < deadline
            if self._suffices(at_least, enough if enough is None or not in_time else max(enough, better)):
                break
            self._record_waiting(at_least)
            # Thousands arrive one by one: looking at all of them takes a small part of the time.
            time.sleep(min(_LOOKS_APART * (time.monotonic() - started), _PAUSE_S))
            if self._asked:
                self._listen(_PAUSE_S)
            else:
                self.channel.wait(_PAUSE_S)
        self._is_first = False
        if self._recorded_waiting is not None:
            self._recorded_waiting = None
            self.ledger.append(events.ClientsGathered(fit=len(self.nodes), wanted=at_least))

    def _gather_all(self, enough: int) -> None:
        self._look()
        self._listen(None)
        if len(self.nodes) >= enough:
            return
        # One client of each reason.
        unfit = list({each.reason: each for each in reversed(self._unfit.values())}.values())[::-1]
        named = "; ".join(f"{each.client}: {each.detail}" for each in unfit)
        more = f"; and {len(self._unfit) - len(unfit)} more" if len(self._unfit) > len(unfit) else ""
        raise PeerError(
            f"{len(self.nodes)} of {len(self._liveness)} clients can take part, but at least {enough} are needed"
            + (f": {named}{more}" if named else "")
        )

    def mark_unhealthy(self, client: str) -> None:
        """Make a failed client describe itself again before it is asked again."""
        if self.channel.open_ended:
            self._forget(client)

    def cool_down(self, client: str, reason: str, detail: str, *, waited_s: float) -> None:
        """Ask a client that was given up nothing for a while."""
        if not self.channel.open_ended:
            return
        node = self.nodes[client]
        self._forget(client)
        self._set_aside(node, client, reason, detail, again_s=self.patience.cool_down_s(waited_s))

    def _forget(self, client: str) -> None:
        self.nodes.pop(client, None)
        self.clients.pop(client, None)

    def _look(self) -> None:
        """Notice arrivals and departures, and ask newcomers."""
        self._liveness = {node: self.channel.liveness(node) for node in self.channel.nodes(0)}
        for client in [client for client, node in self.nodes.items() if node not in self._liveness]:
            self._forget(client)
        now = time.monotonic()
        # A client that left may come back changed.
        self._unfit = {
            node: unfit
            for node, unfit in self._unfit.items()
            if node in self._liveness
            and self._liveness[node].since == unfit.visit
            and (unfit.again_at is None or now < unfit.again_at)
        }
        for node, question in list(self._asked.items()):
            there = self._liveness.get(node)
            asked_s = now - question.at
            if there and self.patience.is_silent(asked_s=asked_s, idle_s=there.idle_s):
                del self._asked[node]
                self._exchange.withdraw(node, "silent")
                detail = f"is connected, but has not answered since it was asked to describe itself {asked_s:.0f} s ago"
                self._set_aside(node, self._name_of(node), Reason.SILENT, detail, again_s=self.patience.again_s)
        known = {*self._asked, *self._unfit, *self.nodes.values()}
        for node in [node for node in self._liveness if node not in known]:
            # A client that cannot carry this rank is asked once more, about its own.
            self._ask(node, _Question(self.ranks.track_for(0), now))

    def _ask(self, node: int, question: _Question) -> None:
        self._asked[node] = question
        self._exchange.send(node, self._tasks[question.track])

    def _listen(self, timeout_s: float | None) -> None:
        """Process descriptions: the first answer within the time, and all that have arrived by then."""
        before = set(self.nodes)
        while self._asked and (received := self._exchange.receive(timeout_s)):
            if timeout_s is not None:
                timeout_s = 0.0
            node, raw = received
            question = self._asked.pop(node, None)
            if question is None:
                continue  # was not asked, or has answered
            client = ""
            try:
                card = read_description(raw, node=node, identity=self._identity(node))
                client = card.client
                self._note_bytes(client, question.track, raw)
                self._hear(node, question, card)
            except UnfitError as error:
                client = error.client or client or self._name_of(node)
                again_s = self.patience.again_s if error.passing else None
                self._set_aside(node, client, error.reason, str(error), again_s=again_s)
        if not (new := sorted(set(self.nodes) - before)):
            return
        # By name, independent of the order of answers.
        self.nodes = dict(sorted(self.nodes.items()))
        self._record_new(new)

    def _hear(self, node: int, question: _Question, card: ClientCard) -> None:
        own = self.ranks.track_for(card.max_rank)
        if own == question.track:
            self._take_in(node, card, question.track)
        elif question.times >= MOST_QUESTIONS:
            raise UnfitError(
                Reason.RANK,
                f"client {card.client!r} states {card.max_rank} as its largest rank, and another one before it was "
                f"asked about rank {self.ranks.adapters[question.track].rank}",
            )
        else:
            self._ask(node, _Question(own, question.at, question.times + 1))

    def _take_in(self, node: int, card: ClientCard, track: int) -> None:
        name = card.client
        if name in self.nodes:
            raise UnfitError(Reason.SAME_NAME, f"two clients are called {name!r}: rename one of them")
        adapter = self.ranks.adapters[track]
        check_description(card, adapter, self.base_fingerprint, counts_stay=self.settings.counts_stay)
        identity = self._identity(node)
        # Thousands of clients hold the same base and specification.
        card = replace(card, base_fingerprint=self.base_fingerprint, spec_digest=adapter.spec.digest)
        self.nodes[name] = node
        self.clients[name] = Registered(card, track, identity.public_key if identity else b"")
        self._once_fit.add(node)
        self._recorded_unfit.pop(node, None)

    def _note_bytes(self, client: str, track: int, raw: Data | NoAnswer) -> None:
        purpose, sent_bytes = Purpose.DESCRIBE.value, sum(map(len, self._tasks[track]))
        received_bytes = 0 if isinstance(raw, NoAnswer) else len(raw)
        self.ledger.note(events.Broadcast(round=0, client=client, purpose=purpose, downlink_bytes=sent_bytes))
        self.ledger.note(events.ReplyReceived(round=0, client=client, purpose=purpose, uplink_bytes=received_bytes))

    def _identity(self, node: int) -> Identity | None:
        try:
            return self.channel.identity(node)
        except PeerError as error:  # it has left
            raise UnfitError(Reason.NO_ANSWER, str(error), client=f"node {node}", passing=True) from error

    def _name_of(self, node: int) -> str:
        try:
            identity = self._identity(node)
        except UnfitError as gone:
            return gone.client
        return identity.name if identity else f"node {node}"

    def _set_aside(self, node: int, client: str, reason: str, detail: str, *, again_s: float | None) -> None:
        again_at = None if again_s is None else time.monotonic() + again_s
        visit = self._liveness[node].since if node in self._liveness else 0.0
        self._unfit[node] = _Unfit(client, str(reason), detail, visit, again_at)
        self.channel.turn_away(node, str(reason), detail)
        # A client that is asked repeatedly is recorded once.
        if self._recorded_unfit.get(node) != (reason, detail):
            self._recorded_unfit[node] = str(reason), detail
            self.ledger.append(events.ClientTurnedAway(node=node, client=client, reason=str(reason), detail=detail))

    def _suffices(self, at_least: int, enough: int | None) -> bool:
        """Whether no client is left to wait for."""
        fit = len(self.nodes)
        if fit >= max(at_least, enough or 0):
            self._short_since = None
            return True
        if enough is None:
            return False
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
        # A client that took part and is connected, but no longer can, is not missing.
        missing = at_least - fit - len(self._once_fit & set(self._unfit))
        limit_s = self.patience.gathering_s
        if self._is_first:
            limit_s = max(limit_s, self.patience.return_s)
        return fit >= enough and (missing <= 0 or now - self._short_since > limit_s)

    def _record_waiting(self, wanted: int) -> None:
        now = here, fit, unfit = len(self._liveness), len(self.nodes), len(self._unfit)
        if now != self._recorded_waiting:
            self._recorded_waiting = now
            missing = tuple(sorted(set(self._recorded) - set(self.nodes)))[:_MOST_NAMED]
            waiting = events.WaitingForClients(here=here, fit=fit, unfit=unfit, wanted=wanted, missing=missing)
            self.ledger.append(waiting)

    def _record_new(self, new: Sequence[str]) -> None:
        """Record new clients, and those that have changed since they were last recorded."""
        news = {name: self.clients[name] for name in new if self._recorded.get(name) != self.clients[name]}
        self._recorded.update(news)
        if not news:
            return
        known = events.DescribedClient.model_fields
        clients = tuple(
            events.DescribedClient.model_validate(
                {name: value for name, value in vars(each.card).items() if name in known}
                | {"rank": self.ranks.adapters[each.track].rank, "public_key": each.key.hex() or None}
            )
            for each in news.values()
        )
        self.ledger.append(events.ClientsDescribed(clients=clients))
