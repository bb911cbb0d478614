"""What a client has spent on its own records in a run, kept on its disk and enforced by the client.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np

from plait.errors import ConfigError, PolicyError
from plait.features.privacy.card import EVEN_SERVERS
from plait.features.privacy.events import PrivacySpent, PrivacyStarted
from plait.features.privacy.key import derived
from plait.features.privacy.record import Charge, RecordPrivacy
from plait.rounds.local_model import TrainJob
from plait.rounds.memory import MUST_LAST, Memory
from plait.wire.settings import Settings

(KEY,) = MUST_LAST
"""Of the account in a client's memory."""

_SECRET_BYTES = 32


@dataclass(frozen=True)
class _Account:
    """What is on disk.

    Attributes:
        run: its id, in hexadecimal.
        secret: of this client and run, in hexadecimal.
        noise: over the clip norm, the same in all rounds.
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


def privacy_of(settings: Settings, *, records: int, most: float = 0.0) -> RecordPrivacy:
    """The privacy of a client's records in a run.

    Args:
        most: epsilon that the client allows; 0 for as much as the run asks for.

    Raises:
        ConfigError: delta or epsilon do not fit so many records.
        PolicyError: the whole run would take more than `most`.
    """
    privacy = RecordPrivacy.of(
        records=records,
        batch=settings.batch_size * settings.gradient_accumulation_steps,
        steps=max(1, settings.total_steps),
        delta=settings.record_delta,
        epsilon=settings.record_epsilon,
        noise=settings.record_noise,
        clip_norm=settings.record_clip or None,
    )
    if not most or privacy.epsilon <= most:
        return privacy
    whole = privacy.epsilon_after(settings.total_steps)
    if whole > most * (1 + 1e-9):
        raise PolicyError(
            f"the run would bring epsilon of this client's records to {whole:.4g} at delta {privacy.delta:g}, but "
            f"dp-max-epsilon of this client's policy allows at most {most:g}; to take part, set it to {whole:.4g} or "
            "more in the file given with --policy"
        )
    return replace(privacy, epsilon=most)


def made_of(job: TrainJob, identity: bytes) -> bytes:
    """Digest of everything that the gradients of a job are made of.

    Args:
        identity: of the client's training data, and of how its machine computes with them.
    """
    hasher = hashlib.sha256(identity)
    task = {each.name: getattr(job.settings, each.name) for each in fields(Settings)}
    hasher.update(json.dumps(task, sort_keys=True).encode())
    carried = job.carried
    moments = carried.moments
    rest = (
        b"" if moments is None else moments.mean.tobytes() + moments.square.tobytes() + repr(moments.steps).encode(),
        *(b"" if each is None else np.ascontiguousarray(each).tobytes() for each in (carried.drift, carried.slope)),
        repr(carried.learning_rate).encode(),
    )
    for part in (job.spec.digest, job.start.digest(), job.received.digest(), job.base.digest, *rest):
        hasher.update(hashlib.sha256(part).digest())
    return hasher.digest()


def charge(
    memory: Memory,
    privacy: RecordPrivacy,
    *,
    run_id: bytes,
    inputs: bytes,
    steps: int,
    pay: Callable[[float, float], None] = lambda _epsilon, _delta: None,
) -> Charge:
    """Pay for the steps of a round, durably, unless they are paid for already.

    Args:
        memory: of the client; must outlive its process.
        inputs: digest of everything that the gradients are made of: data, adapter, carried values, settings, round.
        pay: told epsilon and delta of the run so far, this round included, before it is charged.

    Raises:
        ConfigError: the account on disk is damaged.
        MachineError: it cannot be written; nothing was charged.
        PolicyError: the budget has no room for it, the run's noise or data differ from what it began with, or the
            account is another run's.
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
        pay(epsilon, privacy.delta)
        charges = {**account.charges, commitment: steps}
        memory.save(KEY, json.dumps({**vars(account), "charges": charges}, sort_keys=True).encode())
    return Charge(privacy, derived(secret, b"round" + bytes.fromhex(commitment)), epsilon)


def started(
    settings: Settings, *, clients: int, size: int, continues: bool = False, regions: bool = False
) -> PrivacyStarted:
    """The event that says what a run promises."""
    batch = settings.batch_size * settings.gradient_accumulation_steps
    return PrivacyStarted(
        unit="record",
        adjacency="zero-out",
        observer=EVEN_SERVERS if regions else "everybody, the server too",
        epsilon=settings.record_epsilon or None,
        delta=settings.record_delta,
        noise_multiplier=settings.record_noise or None,
        clip_norm=settings.record_clip or None,
        clients=clients,
        parameters=size,
        amplification="by Poisson batches, which each client draws in secret; none by sampling of clients",
        batch=batch,
        steps=settings.total_steps,
        continues=continues,
    )


def spent(number: int, settings: Settings, epsilons: Mapping[str, float]) -> PrivacySpent:
    """What the clients' records have cost once a round is over.

    Args:
        epsilons: by client, of all that took part so far; none under masks, where epsilon is at most the run's.
    """
    return PrivacySpent(
        round=number,
        epsilon=max(epsilons.values(), default=settings.record_epsilon),
        delta=settings.record_delta,
        by_client=dict(sorted(epsilons.items())),
    )


def _recall(memory: Memory, run_id: bytes) -> _Account | None:
    """The account of this run; None where there is none."""
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
            "this client's account of record-level privacy in the run is damaged: what it has spent is unknown, so it "
            "takes no part; restore it"
        ) from error
    if account.run != run_id.hex():
        # Runs that take turns would each find their account gone, and spend it again.
        raise PolicyError(
            f"run is {run_id.hex()[:16]}, expected {account.run[:16]}, whose account of record-level privacy is here: "
            "the server gives two runs one number"
        )
    return account
