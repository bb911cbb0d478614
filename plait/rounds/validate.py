"""Checks of an answer before it counts; every refusal has a code (`Reason`) for the ledger.

Knows nothing of transport; callers have bounded the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Layout, add, is_small
from plait.errors import PeerError
from plait.rounds.events import Reason
from plait.wire.envelope import EPSILON, Direction, Opened, Received, read_envelope, unpack
from plait.wire.messages import ClientCard, Evaluation

# Far beyond any honest figure, and far below the point where sums of such figures stop being exact or finite.
LARGEST_FIGURE = 2.0**53
# No mean of such adapters, nor the difference of two, leaves float32 (which ends near 2^128).
_LARGEST_ELEMENT = 2.0**120


class UpdateRefused(PeerError):  # noqa: N818 (a verdict, named as the ledger names it)
    """An answer that the round continues without."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Expected:
    """The expected header of one client's update in one round.

    Attributes:
        run_id: 16 bytes.
        base_fingerprint: 32 bytes.
        spec_digest: 32 bytes.
        received: the adapter that the client started from.
        examples: the client's own statement; None if that was checked before.
        public_key: its Ed25519 key, 32 bytes, if it proved to hold one: the update must then be signed with it.
        epsilon: the most that its records may have cost: the update must then say what they
            have, and nothing else of its training; None where they are not private.
    """

    run_id: bytes
    round: int
    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    received: AdapterState
    examples: int | None = None
    public_key: bytes = b""
    epsilon: float | None = None


def open_update(data: bytes, expected: Expected) -> Opened:
    """Read and decode an update and check all its claims.

    Raises:
        UpdateRefused: with the first reason found.
    """
    try:
        received = read_envelope(data, max_bytes=max_update_bytes(expected.received.layout))
    except PeerError as error:
        raise UpdateRefused(Reason.MALFORMED, str(error)) from error
    return check_update(received, expected)


def check_update(received: Received, expected: Expected) -> Opened:
    """Check everything that an update claims, and decode it.

    Raises:
        UpdateRefused: with the first reason found.
    """
    header = received.header
    if header.direction != Direction.UPDATE:
        raise UpdateRefused(Reason.DIRECTION, "envelope is a broadcast, expected an update")
    if header.client != expected.client:
        raise UpdateRefused(Reason.WRONG_CLIENT, f"update is signed by {header.client!r}, expected {expected.client!r}")
    if header.round != expected.round:
        raise UpdateRefused(Reason.WRONG_ROUND, f"update is for round {header.round}, expected {expected.round}")
    for reason, what, got, wanted in (
        (Reason.WRONG_RUN, "run", header.run_id, expected.run_id),
        (Reason.WRONG_BASE, "base", header.base_fingerprint, expected.base_fingerprint),
        (Reason.WRONG_SPEC, "adapter spec", header.spec_digest, expected.spec_digest),
        (
            Reason.WRONG_REFERENCE,
            "adapter that the delta is relative to",
            header.relative_to,
            expected.received.digest(),
        ),
    ):
        if got != wanted:
            raise UpdateRefused(reason, f"{what} is {got.hex()[:16]}, expected {wanted.hex()[:16]}")
    if expected.public_key:
        _check_signature(received, expected)
    if expected.examples is not None and header.examples != expected.examples:
        raise UpdateRefused(Reason.WEIGHT, f"update counts {header.examples} examples, expected {expected.examples}")
    _check_figures(header.metrics)
    if expected.epsilon is not None:
        _check_epsilon(header.metrics, expected.epsilon)
    try:
        opened = unpack(received, layout=expected.received.layout)
    except PeerError as error:
        raise UpdateRefused(Reason.MALFORMED, str(error)) from error
    _check_size(opened.delta, expected.received)
    return opened


def check_evaluation(evaluation: Evaluation, card: ClientCard, round_number: int) -> None:
    """Check a client's evaluation against its earlier statements.

    Raises:
        UpdateRefused: with the first reason found.
    """
    if evaluation.client != card.client:
        raise UpdateRefused(Reason.WRONG_CLIENT, f"evaluation is of {evaluation.client!r}, expected {card.client!r}")
    if evaluation.round != round_number:
        raise UpdateRefused(Reason.WRONG_ROUND, f"evaluation is of round {evaluation.round}, expected {round_number}")
    if evaluation.examples != card.held_out_examples or not 0 < evaluation.tokens <= card.held_out_tokens:
        raise UpdateRefused(
            Reason.WEIGHT,
            f"evaluation counts {evaluation.examples} examples and {evaluation.tokens} tokens, expected "
            f"{card.held_out_examples} and 1 to {card.held_out_tokens}",
        )
    figures = {
        "loss": evaluation.loss,
        "standard error of the loss": evaluation.loss_error,
        "change": evaluation.change,
        "standard error of the change": evaluation.change_error,
        "own loss": evaluation.own_loss,
        "standard error of the own loss": evaluation.own_loss_error,
        "own change": evaluation.own_change,
        "standard error of the own change": evaluation.own_change_error,
        "reward margin": evaluation.reward_margin,
        "own reward margin": evaluation.own_reward_margin,
    }
    _check_figures({name: figure for name, figure in figures.items() if figure is not None})
    for error, change in (
        (evaluation.change_error, evaluation.change),
        (evaluation.own_change_error, evaluation.own_change),
    ):
        if error is not None and change is None:
            raise UpdateRefused(Reason.FIGURE, "evaluation gives the standard error of a change but not the change")
    if evaluation.reward_margin is not None and evaluation.correct is None:
        raise UpdateRefused(Reason.FIGURE, "evaluation gives a reward margin but not how many rewards are right")
    has_own_accuracy = evaluation.own_loss is not None and evaluation.correct is not None
    has_own_margin = evaluation.own_loss is not None and evaluation.reward_margin is not None
    beside = (evaluation.own_loss_error, evaluation.own_change)
    halves = (
        has_own_accuracy is not (evaluation.own_correct is not None),
        has_own_margin is not (evaluation.own_reward_margin is not None),
    )
    if any(halves) or (evaluation.own_loss is None and any(figure is not None for figure in beside)):
        raise UpdateRefused(Reason.FIGURE, "evaluation gives only half of the figures of the client's own adapter")


def _check_signature(received: Received, expected: Expected) -> None:
    if not received.signature:
        raise UpdateRefused(
            Reason.SIGNATURE, f"update of {expected.client!r} is not signed, expected its key's signature"
        )
    from plait.trust.keys import verify

    if not verify(expected.public_key, received.signature, received.signed):
        raise UpdateRefused(Reason.SIGNATURE, f"signature on the update of {expected.client!r} is not its key's")


def _check_figures(figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        least = 0 if name in ("train_tokens", "refused_completions") else -LARGEST_FIGURE
        if not least <= value <= LARGEST_FIGURE:
            raise UpdateRefused(Reason.FIGURE, f"{name} is {value:g}, expected {least:g} to {LARGEST_FIGURE:g}")


def _check_epsilon(figures: Mapping[str, float], most: float) -> None:
    spent = figures.get(EPSILON)
    if spent is None or len(figures) > 1:
        said = ", ".join(sorted(figures)) or "nothing"
        raise UpdateRefused(Reason.FIGURE, f"update says {said} of its training, expected {EPSILON} alone")
    if not 0 <= spent <= most * (1 + 1e-9):
        raise UpdateRefused(Reason.FIGURE, f"{EPSILON} is {spent:g}, expected 0 to {most:g}")


def _check_size(delta: AdapterState, received: AdapterState) -> None:
    if is_small(delta) and is_small(received):
        return
    with np.errstate(over="ignore"):
        flats = (delta.flat, add(received, delta).flat)
        largest = max(max(flat.max(initial=0), -flat.min(initial=0)) for flat in flats)
    if not largest <= _LARGEST_ELEMENT:
        raise UpdateRefused(Reason.OVERFLOW, f"largest element is {largest:g}, expected at most {_LARGEST_ELEMENT:g}")


def max_update_bytes(layout: Layout) -> int:
    """The most bytes that an update of this layout may have: exact float32 and 64 kB for everything else."""
    return 4 * layout.size + 65536
