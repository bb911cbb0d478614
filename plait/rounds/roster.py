"""Who takes part: every reachable node is asked once for its name, its data's size and the base that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plait.adapters import AdapterSpec
from plait.errors import BaseMismatchError, DataError, PeerError
from plait.rounds.channel import Channel, Purpose
from plait.rounds.ledger import Ledger
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Refusal,
    RefusalReason,
    Settings,
    decode_reply,
    encode_task,
)

REPLY_BYTES = 1 << 20  # replies other than updates are a few names and numbers


@dataclass(frozen=True)
class Roster:
    """The clients of a run.

    Attributes:
        nodes: client name to the driver's node number.
        cards: client name to what the client said of itself.
    """

    nodes: Mapping[str, int]
    cards: Mapping[str, ClientCard]


def describe_clients(
    channel: Channel,
    ledger: Ledger,
    settings: Settings,
    spec: AdapterSpec,
    base_fingerprint: bytes,
    *,
    expected: int,
) -> Roster:
    """Ask every node to describe itself and check that it fits the run.

    Raises:
        BaseMismatchError: a client holds another base.
        DataError: a client has too little data.
        PeerError: fewer clients than `expected` answered usably, or two have one name.
    """
    task = encode_task(DescribeTask(settings, spec.text))
    nodes: dict[str, int] = {}
    cards: dict[str, ClientCard] = {}
    failures: list[str] = []
    for node, reply in channel.exchange(dict.fromkeys(channel.nodes(), task), Purpose.DESCRIBE, "0"):
        if isinstance(reply, str):
            failures.append(reply)
            continue
        try:
            card = decode_reply(reply, max_bytes=REPLY_BYTES)
        except PeerError as error:
            failures.append(f"node {node}: {error}")
            continue
        if isinstance(card, Refusal):
            _raise_refusal(card)
        if not isinstance(card, ClientCard):
            failures.append(f"node {node} answered with {type(card).__name__}, expected a description of itself")
            continue
        if card.client in nodes:
            raise PeerError(f"two clients are called {card.client!r}, expected different names")
        if card.base_fingerprint != base_fingerprint:
            raise BaseMismatchError(
                f"base of client {card.client!r} is {card.base_fingerprint.hex()[:16]}, "
                f"expected {base_fingerprint.hex()[:16]}"
            )
        if card.spec_digest != spec.digest:
            raise PeerError(f"client {card.client!r} derives another adapter from the same spec and base")
        for part, examples in (("training", card.train_examples), ("held-out", card.held_out_examples)):
            if not examples:
                raise DataError(f"client {card.client!r} has no {part} examples, expected at least 1")
        nodes[card.client], cards[card.client] = node, card
        ledger.append("broadcast", round=0, client=card.client, purpose="describe", downlink_bytes=len(task))
        ledger.append("reply_received", round=0, client=card.client, purpose="describe", uplink_bytes=len(reply))
    if len(nodes) < expected:
        because = f": {failures[0]}" if failures else ""
        raise PeerError(f"{len(nodes)} clients answered, expected {expected}{because}")
    names = sorted(nodes)
    ledger.append(
        "clients_described",
        clients=[
            {
                "client": name,
                "train_examples": cards[name].train_examples,
                "train_tokens": cards[name].train_tokens,
                "held_out_examples": cards[name].held_out_examples,
                "held_out_tokens": cards[name].held_out_tokens,
                "histogram": dict(cards[name].histogram),
            }
            for name in names
        ],
    )
    return Roster({name: nodes[name] for name in names}, {name: cards[name] for name in names})


def _raise_refusal(refusal: Refusal) -> None:
    if refusal.reason == RefusalReason.BASE_MISMATCH:
        raise BaseMismatchError(refusal.detail)
    if refusal.reason == RefusalReason.TOO_LITTLE_DATA:
        raise DataError(refusal.detail)
    raise PeerError(f"client {refusal.client!r} cannot take part: {refusal.detail}")
