"""Checks of a run's record: whose keys signed its updates, and whether they give the recorded adapters.

The hash chain (ledger.py) shows that the record has not changed since; these checks show that it is true.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from plait.errors import MachineError, PeerError
from plait.ledger.events import (
    MASKED_CODEC,
    ClientsDescribed,
    Evaluated,
    Event,
    RoundFinished,
    StepTakenBack,
    UpdateReceived,
)
from plait.ledger.run_view import RunView
from plait.ledger.watch import EvaluationHistory
from plait.rounds.coordinator import Arriving
from plait.rounds.fold import Aggregator
from plait.rounds.run_state import RunState
from plait.rounds.spool import Refused, Spool, Stored
from plait.trust.keys import verify
from plait.wire.envelope import EPSILON, read_signed


def check_signatures(events: Sequence[Event]) -> int:
    """Check the signature of every update from a client with a key.

    Returns:
        Their number; 0 for a simulation, whose clients have no keys.
    """
    keys: dict[str, bytes] = {}
    checked = 0
    for event in events:
        if isinstance(event, ClientsDescribed):
            keys |= _keys_of(event)
        elif isinstance(event, UpdateReceived):
            number, client = event.round, event.client
            key = keys.get(client, b"")
            if not key or event.codec == MASKED_CODEC:
                continue
            what = f"update of {client!r} in round {number}"
            signed, signature = bytes.fromhex(event.signed or ""), bytes.fromhex(event.signature or "")
            if not verify(key, signature, signed):
                raise PeerError(f"signature on the {what} is not its key's, expected one by {key.hex()[:16]}")
            header = read_signed(signed)
            if (header.client, header.round, header.examples) != (client, number, event.examples):
                raise PeerError(
                    f"{what} is signed for {header.client!r}, round {header.round}, {header.examples} examples, "
                    f"expected {client!r}, {number}, {event.examples}"
                )
            if header.metrics.get(EPSILON) != event.epsilon:
                raise PeerError(f"{what} is signed for epsilon {header.metrics.get(EPSILON)}, expected {event.epsilon}")
            checked += 1
    return checked


def replay(
    events: Sequence[Event],
    state: RunState,
    make_aggregator: Callable[[Refused], Aggregator],
    *,
    arriving: Arriving | None = None,
    take_back: bool = False,
) -> int:
    """Recompute every finished round from the stored updates; `PeerError` if an update or a result is another.

    Args:
        make_aggregator: the run's fold, optimizer and codec over the updates of all rounds, reporting refusals to the
            given function.

    Returns:
        Number of rounds with the same adapter, bit for bit.
    """
    refused: set[tuple[int, str, str]] = set()
    aggregator = make_aggregator(lambda number, client, reason, _detail: refused.add((number, client, str(reason))))
    view = RunView.after(events)
    recorded = {(event.round, event.client, event.reason) for event in view.refusals}
    evaluations = dict(view.evaluations) if take_back else {}
    standing, keys, done = EvaluationHistory(), dict[str, bytes](), 0
    for event in events:
        if isinstance(event, Evaluated) and state.round in evaluations:
            standing = standing.after(evaluations.pop(state.round))
            if not standing.worse:
                state = replace(state, accepted=state.adapter)
        elif isinstance(event, StepTakenBack) and event.adapter:
            if not standing.worse:
                raise PeerError(f"the step of round {state.round} was taken back, although no loss rose")
            state, fields = aggregator.take_back(state)
            _check_same(state.round, str(fields["adapter"]), event.adapter)
        elif isinstance(event, RoundFinished):
            number = state.round + 1
            if event.round != number:
                raise PeerError(f"round {event.round} is the next finished in the ledger, expected {number}")
            stored = {
                update.client: _stored(
                    aggregator.spool,
                    state,
                    update,
                    keys.get(update.client, b""),
                    steps=view.asked.get((number, update.client), 0),
                    arriving=arriving,
                )
                for update in sorted(view.updates_in(number), key=lambda update: update.client)
                if update.codec != MASKED_CODEC
            }
            try:
                state, finished = aggregator.step(state, stored, standing=standing)
            except MachineError as error:
                raise PeerError(str(error)) from error
            _check_same(number, finished.adapter, event.adapter)
            for misfit in sorted(refused - recorded):
                raise PeerError(f"round {number} recomputed refuses {misfit[1]!r} ({misfit[2]}), expected it accepted")
            done = number
        elif isinstance(event, ClientsDescribed):
            keys |= _keys_of(event)
    return done


def _keys_of(event: ClientsDescribed) -> dict[str, bytes]:
    return {card.client: bytes.fromhex(card.public_key or "") for card in event.clients}


def _stored(
    spool: Spool, state: RunState, event: UpdateReceived, public_key: bytes, *, steps: int, arriving: Arriving | None
) -> Stored:
    """A stored update, which is the one that the ledger records."""
    number, client = event.round, event.client
    arrival = arriving(state, event) if arriving else None
    update = spool.directory.load_update(number, client)
    what = f"update of {client!r} in round {number}"
    if update is None:
        raise PeerError(f"{what} is missing, expected it in '{spool.directory.path / 'spool'}'")
    opened, stored = spool.open(state.at(number - 1), number, client, update, steps=steps, arrival=arrival)
    if not event.digest:
        # The ledger of a private run has neither digests nor signatures; the noise is bound to the stored bytes.
        if public_key and not verify(public_key, opened.signature, opened.signed):
            raise PeerError(f"signature on the {what} is not its key's, expected one by {public_key.hex()[:16]}")
        return stored
    if opened.delta.digest().hex() != event.digest:
        raise PeerError(f"{what} has digest {opened.delta.digest().hex()[:16]}, expected {event.digest[:16]}")
    stated = event.signed, event.signature
    if event.signature and (opened.signed.hex(), opened.signature.hex()) != stated:
        raise PeerError(f"the signature of {what} covers something other than the ledger records")
    return stored


def _check_same(number: int, found: str, recorded: str) -> None:
    if found != recorded:
        raise PeerError(
            f"round {number} recomputed gives adapter {found[:16]}, expected {recorded[:16]} as the ledger records"
        )


@dataclass(frozen=True)
class Verified:
    """What was checked."""

    name: str
    text: str
    figures: Mapping[str, object] = field(default_factory=dict[str, object])
