"""Who takes part: every node is asked once for its name, its data's size and the base that it holds.

Where nodes come and go, newcomers are described between rounds, and so is a client whose last answer was refused: it
may have come back with other data.
"""

from __future__ import annotations

from collections.abc import Sequence

from plait.errors import BaseMismatchError, DataError, PeerError, PlaitError
from plait.rounds.channel import Channel, Data, NoAnswer, Purpose
from plait.rounds.ledger import Ledger
from plait.rounds.tracks import Ranks
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Refusal,
    RefusalReason,
    decode_reply,
    encode_task,
)
from plait.wire.settings import Settings

REPLY_BYTES = 1 << 20  # replies other than updates are a few names and numbers
_DESCRIBE_S = 600.0  # a node counts its data in this time or is left out
_PAUSE_S = 1.0


class Roster:
    """The clients of a run, as far as they can be reached.

    Attributes:
        nodes: client name to the driver's node number.
        cards: client name to what the client said of itself.
        keys: client name to its public key, where the driver knows one.
        tracks: client name to the index of its adapter in `Ranks.adapters`.

    Args:
        channel: reaches them.
        ledger: told who takes part.
        settings: under which data are counted.
        ranks: the adapters that they are to carry.
        base_fingerprint: of the base that they are to hold.
    """

    def __init__(
        self, channel: Channel, ledger: Ledger, settings: Settings, ranks: Ranks, base_fingerprint: bytes
    ) -> None:
        self.nodes: dict[str, int] = {}
        self.cards: dict[str, ClientCard] = {}
        self.keys: dict[str, bytes] = {}
        self.tracks: dict[str, int] = {}
        self._channel = channel
        self._ledger = ledger
        self._ranks = ranks
        self._tasks = tuple(encode_task(DescribeTask(settings, adapter.spec.text)) for adapter in ranks.adapters)
        self._base = base_fingerprint
        self._unfit: dict[int, PlaitError] = {}

    def gather(self, at_least: int) -> None:
        """Describe whoever is there, until `at_least` so many clients can take part.

        Raises:
            BaseMismatchError: a client holds another base.
            DataError: a client has too little data.
            PeerError: fewer clients answered usably, or two have one name. Where nodes come and go none of these is
                raised: the ledger is told, and others are waited for.
        """
        while True:
            if self._channel.open_ended and (here := len(self._channel.nodes(0))) < at_least:
                self._ledger.append("waiting_for_clients", here=here, wanted=at_least)
            self._update(self._channel.nodes(at_least))
            if len(self.nodes) >= at_least:
                return
            if not self._channel.open_ended:
                because = f": {next(iter(self._unfit.values()))}" if self._unfit else ""
                raise PeerError(f"{len(self.nodes)} clients answered, expected {at_least}{because}")
            self._channel.wait(_PAUSE_S)

    def doubt(self, client: str) -> None:
        """Have a client that went wrong describe itself anew before it is asked again."""
        if self._channel.open_ended:
            self._forget(client)

    def _forget(self, client: str) -> None:
        for table in (self.nodes, self.cards, self.keys, self.tracks):
            table.pop(client, None)

    def _update(self, reachable: Sequence[int]) -> None:
        here = set(reachable)
        for client in [client for client, node in self.nodes.items() if node not in here]:
            self._forget(client)
        # One that left may come back another.
        self._unfit = {node: error for node, error in self._unfit.items() if node in here}
        known = {*self.nodes.values(), *self._unfit}
        newcomers = [node for node in reachable if node not in known]
        before = set(self.nodes)
        with self._channel.exchange(Purpose.DESCRIBE, "0") as exchange:
            # Whoever cannot carry so large a rank is asked once more, about its own.
            asked = dict.fromkeys(newcomers, self._ranks.track_for(0))
            for node, track in asked.items():
                exchange.send(node, self._tasks[track])
            while asked and (received := exchange.receive(_DESCRIBE_S)):
                node, raw = received
                if node not in asked:
                    continue
                track = asked.pop(node)
                try:
                    card = self._card_of(node, raw, track)
                    own = self._ranks.track_for(card.max_rank)
                    if own == track:
                        self._take_in(node, card, track)
                    else:
                        asked[node] = own
                        exchange.send(node, self._tasks[own])
                except PlaitError as error:
                    self._turn_away(node, error)
        # By name, whoever answered first.
        names = sorted(self.nodes)
        self.nodes = {name: self.nodes[name] for name in names}
        self.cards = {name: self.cards[name] for name in names}
        self.keys = {name: self.keys[name] for name in names}
        self.tracks = {name: self.tracks[name] for name in names}
        if set(self.nodes) - before:
            self._tell()

    def _card_of(self, node: int, raw: Data | NoAnswer, track: int) -> ClientCard:
        """What a node says of itself; the ledger is told what was said."""
        if isinstance(raw, NoAnswer):
            raise PeerError(raw.detail)
        try:
            card = decode_reply(raw, max_bytes=REPLY_BYTES)
        except PeerError as error:
            raise PeerError(f"node {node}: {error}") from error
        if isinstance(card, Refusal):
            raise _error_of(card)
        if not isinstance(card, ClientCard):
            raise PeerError(f"node {node} answered with {type(card).__name__}, expected a description of itself")
        identity = self._channel.identity(node)
        if identity and identity.name != card.client:
            raise PeerError(f"node of {identity.name!r} calls itself {card.client!r}, expected the name of its key")
        self._ledger.note(
            "broadcast",
            round=0,
            client=card.client,
            purpose="describe",
            downlink_bytes=sum(map(len, self._tasks[track])),
        )
        self._ledger.note(
            "reply_received",
            round=0,
            client=card.client,
            purpose="describe",
            uplink_bytes=len(raw),
        )
        return card

    def _take_in(self, node: int, card: ClientCard, track: int) -> None:
        identity = self._channel.identity(node)
        if card.client in self.nodes:
            raise _UnfitError(f"two clients are called {card.client!r}, expected different names")
        if card.base_fingerprint != self._base:
            raise BaseMismatchError(
                f"base of client {card.client!r} is {card.base_fingerprint.hex()[:16]}, "
                f"expected {self._base.hex()[:16]}"
            )
        rank = self._ranks.adapters[track].rank
        if card.max_rank and rank > card.max_rank:
            raise _UnfitError(
                f"client {card.client!r} carries a rank of at most {card.max_rank}, expected {rank}: "
                "give the run a lower --rank or --client-ranks, or the client a higher --max-rank"
            )
        if card.spec_digest != self._ranks.adapters[track].spec.digest:
            raise _UnfitError(f"client {card.client!r} derives another adapter from the same spec and base")
        for part, examples in (("training", card.train_examples), ("held-out", card.held_out_examples)):
            if not examples:
                raise DataError(f"client {card.client!r} has no {part} examples, expected at least 1")
        self.nodes[card.client], self.cards[card.client] = node, card
        self.keys[card.client] = identity.public_key if identity else b""
        self.tracks[card.client] = track

    def _turn_away(self, node: int, error: PlaitError) -> None:
        self._unfit[node] = error
        if self._channel.open_ended:
            self._ledger.append("client_turned_away", node=node, detail=str(error))
        elif isinstance(error, (BaseMismatchError, DataError, _UnfitError)):
            raise error

    def _tell(self) -> None:
        self._ledger.append(
            "clients_described",
            clients=[
                {
                    "client": name,
                    "train_examples": card.train_examples,
                    "train_tokens": card.train_tokens,
                    "held_out_examples": card.held_out_examples,
                    "held_out_tokens": card.held_out_tokens,
                    "rank": self._ranks.adapters[self.tracks[name]].rank,
                    "histogram": dict(card.histogram),
                    **({"public_key": self.keys[name].hex()} if self.keys[name] else {}),
                }
                for name, card in self.cards.items()
            ],
        )


class _UnfitError(PeerError):
    """A client that cannot take part; where everyone must, that ends the run."""


def _error_of(refusal: Refusal) -> PlaitError:
    if refusal.reason == RefusalReason.BASE_MISMATCH:
        return BaseMismatchError(refusal.detail)
    if refusal.reason == RefusalReason.TOO_LITTLE_DATA:
        return DataError(refusal.detail)
    return _UnfitError(f"client {refusal.client!r} cannot take part: {refusal.detail}")
