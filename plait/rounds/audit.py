"""Checks of a run's record: whose keys signed its updates, and whether they give the recorded adapters.

The hash chain (ledger.py) shows that nobody has changed the record since; these checks show that it is true. Knows
nothing of the origin of keys: the ledger names each client's, from the server's register.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from plait.errors import MachineError, PeerError
from plait.rounds.events import ClientsDescribed, Event, RoundFinished, UpdateReceived, UpdateRefused
from plait.rounds.folding import Folding, Refused
from plait.rounds.norm_bound import Norms
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.trust.keys import verify
from plait.wire.signature import read_signed, signature_of, signed_bytes


def check_signatures(events: Sequence[Event]) -> int:
    """Check the signature of every update from a client with a key.

    Returns:
        Their number; 0 for a simulation, whose clients have no keys.

    Raises:
        PeerError: one is missing, is not the key's, or covers something else.
    """
    keys: dict[str, bytes] = {}
    checked = 0
    for event in events:
        if isinstance(event, ClientsDescribed):
            keys |= {card.client: bytes.fromhex(card.public_key or "") for card in event.clients}
        elif isinstance(event, UpdateReceived):
            number, client = event.round, event.client
            key = keys.get(client, b"")
            if not key:
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
            checked += 1
    return checked


def replay(
    directory: RunDirectory, events: Sequence[Event], state: RunState, folding: Callable[[Refused], Folding]
) -> int:
    """Recompute every finished round from the stored updates, and compare.

    Args:
        directory: of the run, with the updates of all rounds.
        events: its ledger.
        state: before round 1.
        folding: the run's rule, optimizer and codec, reporting refusals to the given function.

    Returns:
        Number of rounds with the same adapter, bit for bit.

    Raises:
        PeerError: an update is missing or differs from the one received, or a round gives another result.
    """
    received: dict[int, dict[str, UpdateReceived]] = {}
    refused: set[tuple[int, str, str]] = set()
    done = 0
    fold = folding(lambda number, client, reason, _detail: refused.add((number, client, str(reason))))
    told = {(event.round, event.client, event.reason) for event in events if isinstance(event, UpdateRefused)}
    for event in events:
        if isinstance(event, UpdateReceived):
            received.setdefault(event.round, {})[event.client] = event
        elif isinstance(event, RoundFinished):
            number = state.round + 1
            if event.round != number:
                raise PeerError(f"round {event.round} is the next finished in the ledger, expected {number}")
            norms = {
                client: _norms(directory, fold, state, number, client, update)
                for client, update in sorted(received.get(number, {}).items())
            }
            try:
                state, fields = fold.step(state, number, norms)
            except MachineError as error:
                raise PeerError(str(error)) from error
            if fields["adapter"] != event.adapter:
                raise PeerError(
                    f"round {number} recomputed gives adapter {str(fields['adapter'])[:16]}, "
                    f"expected {event.adapter[:16]} as the ledger says"
                )
            for misfit in sorted(refused - told):
                raise PeerError(f"round {number} recomputed refuses {misfit[1]!r} ({misfit[2]}), expected it accepted")
            state, done = replace(state, finished={}), number
    return done


def _norms(
    directory: RunDirectory, folding: Folding, state: RunState, number: int, client: str, event: UpdateReceived
) -> Norms:
    update = directory.load_update(number, client)
    what = f"update of {client!r} in round {number}"
    if update is None:
        raise PeerError(f"{what} is missing, expected it in '{directory.path / 'spool'}'")
    opened, track = folding.open(state, number, client, update)
    if opened.delta.digest().hex() != event.digest:
        raise PeerError(f"{what} has digest {opened.delta.digest().hex()[:16]}, expected {event.digest[:16]}")
    stated = event.signed, event.signature
    if event.signature and (signed_bytes(update).hex(), signature_of(update).hex()) != stated:
        raise PeerError(f"the signature of {what} covers something other than the ledger records")
    return folding.measure(opened, state, track)
