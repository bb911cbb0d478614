"""A node's description of itself, read and checked, or the reason that it cannot take part.

Knows no channel: bytes in, a card out.
"""

from __future__ import annotations

from plait.errors import PeerError
from plait.rounds.channel import Data, Identity, NoAnswer
from plait.rounds.reason import Reason
from plait.wire.messages import ClientCard, Refusal, RefusalReason, decode_reply

REPLY_BYTES = 1 << 20  # replies other than updates are a few names and numbers

MOST_TOKENS = 1 << 44
"""More than any client has (17 trillion): a count beyond it is a lie or a mistake."""

# Reasons that may pass, even if the client has not reconnected.
_PASSING = frozenset({RefusalReason.FAILED, RefusalReason.BUSY, RefusalReason.NEED_FULL})


class UnfitError(PeerError):
    """A client that cannot take part.

    Attributes:
        reason: a code for the ledger: a `Reason`, or the client's own.
        client: its name, if known.
        passing: whether it may be able to later.
    """

    def __init__(self, reason: str, detail: str, *, client: str = "", passing: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.client, self.passing = str(reason), client, passing


def read_description(raw: Data | NoAnswer, *, node: int, identity: Identity | None) -> ClientCard:
    """Read a node's answer.

    Args:
        identity: its proven identity, if the driver knows it.

    Raises:
        UnfitError: it is a refusal, not a description, or one under another's name.
    """
    if isinstance(raw, NoAnswer):
        raise UnfitError(Reason.NO_ANSWER, raw.detail, passing=True)
    try:
        card = decode_reply(raw, max_bytes=REPLY_BYTES)
    except PeerError as error:
        raise UnfitError(Reason.MALFORMED, f"node {node}: {error}") from error
    if isinstance(card, Refusal):
        raise UnfitError(
            card.reason.name.lower().replace("_", "-"),
            card.detail,
            client=identity.name if identity else card.client,
            passing=card.reason in _PASSING,
        )
    if not isinstance(card, ClientCard):
        raise UnfitError(Reason.MALFORMED, f"node {node} answered with {type(card).__name__}, expected a description")
    if identity and identity.name != card.client:
        raise UnfitError(
            Reason.WRONG_CLIENT,
            f"node of {identity.name!r} calls itself {card.client!r}, expected the name of its key",
        )
    return card


def check_description(
    card: ClientCard,
    *,
    base_fingerprint: bytes,
    spec_digest: bytes,
    rank: int,
    counts_stay: bool = False,
) -> None:
    """Check that a client can take part.

    Args:
        counts_stay: whether clients keep to themselves how much data they have, as with secure aggregation.

    Raises:
        UnfitError: another base or adapter, too low a rank, or no data.
    """
    name = card.client
    if card.base_fingerprint != base_fingerprint:
        raise UnfitError(
            Reason.WRONG_BASE,
            f"base of client {name!r} is {card.base_fingerprint.hex()[:16]}, expected {base_fingerprint.hex()[:16]}",
            client=name,
        )
    if card.max_rank and rank > card.max_rank:
        raise UnfitError(
            Reason.RANK,
            f"client {name!r} supports a rank of at most {card.max_rank}, expected {rank}: give the run a lower "
            "--rank or --client-ranks, or the client a higher --max-rank",
            client=name,
        )
    if card.spec_digest != spec_digest:
        raise UnfitError(
            Reason.WRONG_SPEC, f"client {name!r} derives another adapter from the same spec and base", client=name
        )
    if not counts_stay or card.train_examples or card.held_out_examples or card.histogram:
        _check_counts(card)


def _check_counts(card: ClientCard) -> None:
    name = card.client
    for part, examples, tokens in (
        ("training", card.train_examples, card.train_tokens),
        ("held-out", card.held_out_examples, card.held_out_tokens),
    ):
        if not examples:
            raise UnfitError(
                "too-little-data", f"client {name!r} has no {part} examples, expected at least 1", client=name
            )
        if not examples <= tokens <= MOST_TOKENS:
            raise UnfitError(
                Reason.WEIGHT,
                f"client {name!r} states {examples} {part} examples of {tokens} tokens, expected no more examples than "
                f"tokens, and at most {MOST_TOKENS} of these",
                client=name,
            )
