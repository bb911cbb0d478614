"""Checks of a run's record: whose keys signed its updates, and whether they give the recorded adapters.

The hash chain (ledger.py) shows that nobody has changed the record since; these checks show that it is true. Knows
nothing of the origin of keys: the ledger names each client's, from the server's register.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from plait.errors import MachineError, PeerError
from plait.privacy.accountant import epsilon_at
from plait.privacy.rests import Rests
from plait.privacy.sum_of_shares import epsilon_of
from plait.rounds.aggregator import Aggregator, TakesBack
from plait.rounds.events import (
    MASKED_CODEC,
    ClientReplaced,
    ClientsDescribed,
    Evaluated,
    Event,
    NoiseIntended,
    PrivacySpent,
    PrivacyStarted,
    RegionStarted,
    RoundFinished,
    RoundStarted,
    StepTakenBack,
    UpdateReceived,
    UpdateRefused,
)
from plait.rounds.recorded import evaluations_in, participants_in, promised_in, steps_in
from plait.rounds.run_state import RunState
from plait.rounds.spool import Arrival, Refused, Spool, Stored
from plait.rounds.watch import Standing
from plait.rounds.way import Arriving
from plait.trust.keys import verify
from plait.wire.envelope import EPSILON
from plait.wire.signature import read_signed


def check_signatures(events: Sequence[Event]) -> int:
    """Check the signature of every update from a client with a key.

    Returns:
        Their number; 0 for a simulation, whose clients have no keys, for a run with differential privacy of clients or
        a region of one, whose ledgers have no signatures, and for one with secure aggregation, of whose updates nobody
        has more than the sum.

    Raises:
        PeerError: one is missing, is not the key's, or covers something else.
    """
    if hides_clients(events):
        return 0
    keys: dict[str, bytes] = {}
    checked = 0
    for event in events:
        if isinstance(event, ClientsDescribed):
            keys |= {card.client: bytes.fromhex(card.public_key or "") for card in event.clients}
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


def hides_clients(events: Sequence[Event]) -> bool:
    """Whether a ledger is of a run with differential privacy of clients, or of a region of one."""
    if events and isinstance(first := events[0], RegionStarted):
        return first.config.get("dp") == "client"
    return any(isinstance(event, PrivacyStarted) and event.unit == "client" for event in events)


def check_privacy(events: Sequence[Event]) -> PrivacySpent | None:
    """Check that every round of a private run has paid for its noise, and that the ledger's figures follow from that.

    Returns:
        What the run has spent; None without differential privacy, or before its first round.

    Raises:
        PeerError: the noise of a round is not paid for, a figure is not what it must be, or the budget is exceeded.
    """
    promised = promised_in(events)
    if promised is None:
        return None
    if promised.unit == "record":
        return _check_records(promised, events)
    rests = promised.rests
    if rests:
        _check_rests(rests, events)
    paid: set[tuple[int, str]] = set()
    epsilon = 0.0
    spent: PrivacySpent | None = None
    multiplier, guaranteed = promised.noise_multiplier or math.nan, promised.guaranteed or 0
    for event in events:
        if isinstance(event, NoiseIntended):
            paid.add((event.round, event.commitment))
            epsilon = (
                epsilon_at(promised.delta, rests.sensitivity(len(paid)) / multiplier)
                if rests
                else epsilon_of(promised.delta, len(paid), multiplier, guaranteed=guaranteed)
            )
            _check_epsilon(event, epsilon)
            if promised.epsilon is not None and epsilon > promised.epsilon * (1 + 1e-9):
                raise PeerError(f"epsilon of round {event.round} is {epsilon:g}, expected at most {promised.epsilon:g}")
        elif isinstance(event, PrivacySpent):
            spent = event
            if event.charges != len(paid):
                raise PeerError(f"round {event.round} states {event.charges} draws of noise, expected {len(paid)}")
            if event.delta != promised.delta:
                raise PeerError(f"delta of round {event.round} is {event.delta:g}, expected {promised.delta:g}")
            _check_epsilon(event, epsilon)
        elif isinstance(event, RoundFinished) and event.round not in {number for number, _ in paid}:
            raise PeerError(f"round {event.round} is finished without noise, expected an intent to draw it before")
    return spent


def _check_rests(rests: Rests, events: Sequence[Event]) -> None:
    """Check that clients rested as long as epsilon rests on, and that each round's noise was drawn once."""
    last: dict[str, int] = {}
    for number, clients in sorted(participants_in(events).items()):
        for client in sorted(clients):
            if number < (due := last.get(client, -rests.separation) + rests.separation):
                raise PeerError(f"{client!r} takes part in round {number}, expected not before round {due}")
            last[client] = number
    drawn = [event.round for event in events if isinstance(event, NoiseIntended)]
    if drawn != list(range(1, len(drawn) + 1)) or len(drawn) > rests.rounds:
        raise PeerError(f"noise was drawn for rounds {drawn}, expected each of {rests.rounds} at most once")


def _check_records(promised: PrivacyStarted, events: Sequence[Event]) -> PrivacySpent | None:
    """The same where every client keeps an account of its own records, of which it says the total."""
    said: dict[str, float] = {}
    spent: PrivacySpent | None = None
    for event in events:
        if isinstance(event, UpdateReceived) and event.codec != MASKED_CODEC:
            what = f"epsilon of {event.client!r} in round {event.round}"
            if event.epsilon is None:
                raise PeerError(f"{what} is not there, expected it with every update")
            if promised.epsilon is not None and event.epsilon > promised.epsilon * (1 + 1e-9):
                raise PeerError(f"{what} is {event.epsilon:g}, expected at most {promised.epsilon:g}")
            if event.epsilon < said.get(event.client, 0.0):
                raise PeerError(f"{what} is {event.epsilon:g}, expected no less than {said[event.client]:g} as before")
            said[event.client] = event.epsilon
        elif isinstance(event, PrivacySpent):
            spent = event
            if event.delta != promised.delta:
                raise PeerError(f"delta of round {event.round} is {event.delta:g}, expected {promised.delta:g}")
            if dict(event.by_client) != said:
                raise PeerError(f"epsilons of clients after round {event.round} are not those of their updates")
            # Under masks no client says what it has spent: no more than the run's epsilon.
            _check_epsilon(event, max(said.values(), default=promised.epsilon or math.inf))
        elif isinstance(event, RoundFinished) and (spent is None or spent.round != event.round):
            raise PeerError(f"round {event.round} is finished, expected what it cost before")
    return spent


def _check_epsilon(event: NoiseIntended | PrivacySpent, expected: float) -> None:
    if not math.isclose(expected, event.epsilon, rel_tol=1e-9):
        raise PeerError(f"epsilon of round {event.round} is {event.epsilon:g}, expected {expected:g}")


def replay(
    events: Sequence[Event],
    state: RunState,
    make_aggregator: Callable[[Refused], Aggregator],
    *,
    arriving: Arriving | None = None,
    take_back: bool = False,
) -> int:
    """Recompute every finished round from the stored updates, and compare.

    Args:
        events: the run's ledger.
        state: before round 1.
        make_aggregator: the run's fold, optimizer and codec over the updates of all rounds, reporting refusals to the
            given function.
        arriving: see `Way`.
        take_back: whether the run takes back steps that made the adapter worse.

    Returns:
        Number of rounds with the same adapter, bit for bit.

    Raises:
        PeerError: an update is missing or differs from the one received, or a round gives another result.
    """
    refused: set[tuple[int, str, str]] = set()
    aggregator = make_aggregator(lambda number, client, reason, _detail: refused.add((number, client, str(reason))))
    recorded = {(event.round, event.client, event.reason) for event in events if isinstance(event, UpdateRefused)}
    evaluations = {each.round: each for each in evaluations_in(events)} if take_back else {}
    standing, spooled, done = Standing(), _Spooled(aggregator.spool, arriving), 0
    for event in events:
        if isinstance(event, Evaluated) and state.round in evaluations:
            standing = standing.after(evaluations.pop(state.round))
            if not standing.worse and aggregator.takes_back is not TakesBack.NOTHING:
                state = state.accept()
        elif isinstance(event, StepTakenBack) and event.adapter:
            if not standing.worse:
                raise PeerError(f"the step of round {state.round} was taken back, expected it kept: no loss rose")
            state = _taken_back(aggregator, state, event, event.adapter)
        elif isinstance(event, RoundFinished):
            number = state.round + 1
            if event.round != number:
                raise PeerError(f"round {event.round} is the next finished in the ledger, expected {number}")
            stored = spooled.of_round(state, number)
            try:
                state, finished = aggregator.step(state, number, stored, standing=standing)
            except MachineError as error:
                raise PeerError(str(error)) from error
            _check_same(number, finished.adapter, event.adapter)
            for misfit in sorted(refused - recorded):
                raise PeerError(f"round {number} recomputed refuses {misfit[1]!r} ({misfit[2]}), expected it accepted")
            done = number
        else:
            spooled.note(event)
    return done


def _taken_back(aggregator: Aggregator, state: RunState, event: StepTakenBack, adapter: str) -> RunState:
    """The state after a step was taken back, or as it was where the run ended with what it had accepted."""
    if event.ends:
        found = state.accepted_shadow.digest().hex() if state.accepted_shadow else ""
        _check_same(event.accepted, found, adapter)
        return state
    state, fields = aggregator.take_back(state)
    _check_same(state.round, str(fields["adapter"]), adapter)
    return state


class _Spooled:
    """The stored updates of a run, and what its ledger says of them."""

    def __init__(self, spool: Spool, arriving: Arriving | None) -> None:
        self._spool, self._arriving = spool, arriving
        self._received: dict[int, dict[str, UpdateReceived]] = {}
        self._keys: dict[str, bytes] = {}
        self._steps: dict[tuple[int, str], int] = {}

    def note(self, event: Event) -> None:
        """Remember an event of clients or updates."""
        if isinstance(event, ClientsDescribed):
            self._keys |= {card.client: bytes.fromhex(card.public_key or "") for card in event.clients}
        elif isinstance(event, (RoundStarted, ClientReplaced)):
            self._steps |= steps_in(event)
        elif isinstance(event, UpdateReceived) and event.codec != MASKED_CODEC:
            self._received.setdefault(event.counted_in, {})[event.client] = event

    def of_round(self, state: RunState, number: int) -> dict[str, Stored]:
        """The updates that a round folds, by client.

        Raises:
            PeerError: one is missing or differs from the one received.
        """
        return {
            client: replace(
                _stored(
                    self._spool,
                    self._arriving(state, update) if self._arriving else None,
                    state,
                    client,
                    update,
                    self._keys.get(client, b""),
                ),
                steps=self._steps.get((number, client), 0),
            )
            for client, update in sorted(self._received.get(number, {}).items())
        }


def _check_same(number: int, found: str, recorded: str) -> None:
    if found != recorded:
        raise PeerError(
            f"round {number} recomputed gives adapter {found[:16]}, expected {recorded[:16]} as the ledger says"
        )


def _stored(
    spool: Spool,
    arrival: Arrival | None,
    state: RunState,
    client: str,
    event: UpdateReceived,
    public_key: bytes,
) -> Stored:
    number = event.round
    update = spool.directory.load_update(number, client)
    what = f"update of {client!r} in round {number}"
    if update is None:
        raise PeerError(f"{what} is missing, expected it in '{spool.directory.path / 'spool'}'")
    opened, stored = spool.open(state.at(number - 1), number, client, update, arrival=arrival)
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
