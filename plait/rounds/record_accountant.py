"""What a client has spent on its own records in a run, kept on its own disk and enforced by itself.

A round's steps are charged before their noise exists, and the charge is on disk by then. The key of batches and noise
follows from a secret of the client and from everything that the round's gradients are made of, so a client that is
killed and asked again gives the same answer for free, and other inputs get independent noise and a second charge. A
task that the budget has no room for is refused, whatever the server says. Knows no gradient.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from plait.errors import ConfigError, PolicyError
from plait.privacy.key import derived
from plait.privacy.record import RecordPrivacy
from plait.rounds.memory import Memory

KEY = "record-privacy"
"""Of the account in a client's memory."""

_SECRET_BYTES = 32


@dataclass(frozen=True)
class Charge:
    """A round's steps, paid for.

    Attributes:
        key: 32 bytes, of its batches and noise.
        epsilon: of everything so far, this included.
    """

    key: bytes
    epsilon: float


@dataclass(frozen=True)
class _Account:
    """What is on disk.

    Attributes:
        run: its id, in hexadecimal.
        secret: of this client and run, in hexadecimal.
        noise: over the clip norm, the same in all rounds.
        records: that the client trains on.
        batch: expected in a step.
        charges: steps, by the commitment to what they are made of.
    """

    run: str
    secret: str
    noise: float
    records: int
    batch: int
    charges: Mapping[str, int]

    @property
    def steps(self) -> int:
        return sum(self.charges.values())


def charge(memory: Memory, privacy: RecordPrivacy, *, run_id: bytes, inputs: bytes, steps: int) -> Charge:
    """Pay for the steps of a round, durably, unless they are paid for already.

    Args:
        memory: of the client; must outlive its process.
        privacy: of the client in this run.
        run_id: the run's.
        inputs: digest of everything that the gradients are made of: data, adapter, carried values, settings, round.
        steps: of the round.

    Raises:
        ConfigError: the account on disk is damaged.
        MachineError: it cannot be written; nothing was charged.
        PolicyError: the budget has no room for it, or the run's noise or data differ from what it began with.
    """
    account = _recall(memory, run_id) or _Account(
        run_id.hex(), secrets.token_bytes(_SECRET_BYTES).hex(), privacy.noise, privacy.records, privacy.batch, {}
    )
    for what, now, before in (
        ("records", privacy.records, account.records),
        ("records expected in a step", privacy.batch, account.batch),
        ("noise multiplier", privacy.noise, account.noise),
    ):
        if now != before:
            raise PolicyError(f"{what}: {now:g}, expected {before:g} as when this client's account of the run began")
    secret = bytes.fromhex(account.secret)
    commitment = hmac.new(secret, b"steps" + steps.to_bytes(8, "little") + inputs, hashlib.sha256).hexdigest()
    total = account.steps if commitment in account.charges else account.steps + steps
    epsilon = privacy.epsilon_after(total)
    if commitment not in account.charges:
        if epsilon > privacy.epsilon * (1 + 1e-9):
            raise PolicyError(
                f"this round would bring epsilon of this client's records to {epsilon:.4g} at delta {privacy.delta:g}, "
                f"expected at most {privacy.epsilon:g}: it takes no further part in the run"
            )
        charges = {**account.charges, commitment: steps}
        memory.save(KEY, json.dumps({**vars(account), "charges": charges}, sort_keys=True).encode())
    return Charge(derived(secret, b"round" + bytes.fromhex(commitment)), epsilon)


def _recall(memory: Memory, run_id: bytes) -> _Account | None:
    """The account of this run; None where there is none, also if that of another run is there."""
    data = memory.load(KEY)
    if data is None:
        return None
    try:
        kept = cast("dict[str, object]", json.loads(data))
        account = _Account(
            run=str(kept["run"]),
            secret=str(kept["secret"]),
            noise=float(cast("float", kept["noise"])),
            records=int(cast("int", kept["records"])),
            batch=int(cast("int", kept["batch"])),
            charges={str(key): int(steps) for key, steps in cast("dict[str, int]", kept["charges"]).items()},
        )
        if len(bytes.fromhex(account.secret)) != _SECRET_BYTES:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "this client's account of record-level privacy is damaged: what it has spent is unknown, so it takes no "
            "part; give another --state for another run"
        ) from error
    return account if account.run == run_id.hex() else None
