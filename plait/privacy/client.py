"""What differential privacy costs one client: over all runs by the journal of its data, of its records by its account.

A client refuses what would bring epsilon of all runs together above the most that its operator's policy allows.
Client-level noise costs all rounds of a run, and updates that are given again.

Record-level privacy is DP-SGD (Abadi et al., arXiv 1607.00133), whose budget the client enforces. A round's steps are
charged on its disk before their noise exists. The key of batches and noise follows from a secret of the client and from
everything that the round's gradients are made of, so a client that is killed and asked again gives the same answer for
free, and other inputs get independent noise and a second charge.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from plait.errors import ConfigError, PolicyError
from plait.guarantees import noise_for, sampled_epsilon
from plait.ledger.events import Event
from plait.ledger.privacy import PrivacySpent, PrivacyStarted
from plait.privacy.mechanism import ClientPrivacy
from plait.privacy.noise import Keystream, derived
from plait.rounds.client_pipeline import ClientContext, Hook, Outgoing
from plait.rounds.data_journal import DataJournal, damaged
from plait.rounds.local_model import DataSize, TrainJob
from plait.rounds.memory import MUST_LAST, ClientStore
from plait.rounds.run_plan import PrivacyBudget
from plait.rounds.run_state import RunState
from plait.rounds.terms import TaskHistory
from plait.wire.envelope import EPSILON
from plait.wire.settings import Settings

_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class SpentJournal:
    """What a client's data have cost by their journal, of which `account` is that of one run.

    All runs together may cost `most`; 0 for any amount.
    """

    journal: DataJournal
    account: str
    most: float = 0.0

    @classmethod
    def of(cls, speaker: ClientContext) -> Self | None:
        """That of a client's run; None without a policy and a journal, as in a simulation."""
        if not (speaker.journal and speaker.terms and speaker.terms.policy):
            return None
        return cls(speaker.journal, speaker.own_secret.account, speaker.terms.policy.most_epsilon)

    def earlier(self) -> float:
        """Epsilon of all other runs together, by adding it up."""
        return sum(epsilon for account, epsilon in self._spent().items() if account != self.account)

    def check(self, epsilon: float) -> None:
        """Refuse a run that would bring epsilon of all runs together above the most."""
        others = self.earlier()
        if self.most and others + epsilon > self.most * _SLACK:
            raise PolicyError(
                f"the run would bring epsilon of this client's data in this federation to {others + epsilon:.4g}, "
                f"{others:.4g} of it in earlier runs, but max-total-epsilon of this client's policy (where it is 0, "
                f"dp-max-epsilon) allows {self.most:g} over all runs; to take part, raise it in the file given with "
                "--policy"
            )

    def pay(self, epsilon: float, delta: float) -> None:
        """Record what the run will have spent, before anything leaves."""
        self.check(epsilon)
        if epsilon > self._spent().get(self.account, 0.0):
            self.journal.add({"spent": self.account, "epsilon": epsilon, "delta": delta})
            # Another process may have paid since it was looked at; what is written stays.
            self.check(epsilon)

    def _spent(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for entry in self.journal.entries():
            if "spent" not in entry:
                continue
            try:
                account, epsilon = str(entry["spent"]), float(entry["epsilon"])
            except (ValueError, KeyError, TypeError) as error:
                raise damaged() from error
            found[account] = max(epsilon, found.get(account, 0.0))
        return found


@dataclass(frozen=True)
class ClientCharge(Hook):
    """The hook: a client pays for what the run's noise promises of it before it trains."""

    speaker: ClientContext
    privacy: ClientPrivacy

    def before(self, job: TrainJob) -> TrainJob:
        """Pay; training knows nothing of it."""
        if job.settings.adds_share and not job.settings.secure_aggregation:
            raise PolicyError(
                "an update with a share of the noise is requested without masks: it may only leave in a masked sum"
            )
        self.pay()
        return job

    def pay(self) -> None:
        """Pay for the whole run."""
        spent, terms = SpentJournal.of(self.speaker), self.speaker.terms
        if spent and terms:
            rounds = terms.tasks.plan.rounds + TaskHistory.recall(self.speaker.memory).repeats
            spent.pay(self.privacy.epsilon_after(rounds), self.privacy.delta)


@dataclass(frozen=True)
class RecordPrivacy:
    """The privacy of one client's records in one run."""

    records: int
    batch: int  # of them that a step is expected to draw, at most all
    noise: float  # of the sum, over the clip norm
    delta: float
    epsilon: float  # never exceeded
    # that gradients are clipped to; None to scale each to the same norm (Bu et al., arXiv 2206.07136), which needs no
    # choice where the optimizer divides by the gradient's size anyway
    clip_norm: float | None

    @classmethod
    def of(
        cls,
        *,
        records: int,
        batch: int,
        steps: int,
        delta: float,
        epsilon: float,
        clip_norm: float | None,
    ) -> Self:
        """The privacy with which all steps of a run just fit an epsilon."""
        if delta * records >= 1:
            raise ConfigError(
                f"dp-delta is {delta:g} and this client has {records:,} records, expected less than 1 / records = "
                f"{1 / records:g}: with more, showing one record in full would be within the guarantee"
            )
        batch = min(batch, records)
        return cls(records, batch, noise_for(epsilon, delta, batch / records, steps), delta, epsilon, clip_norm)

    @property
    def rate(self) -> float:
        """Probability of a record to be in a step's sample."""
        return self.batch / self.records

    @property
    def mechanism(self) -> ClientPrivacy:
        """The mechanism of a step: that of a private round, with examples in the place of clients."""
        return ClientPrivacy(
            noise_multiplier=self.noise,
            delta=self.delta,
            epsilon=None,
            clients=self.batch,
            clip_norm=1.0 if self.clip_norm is None else self.clip_norm,
            quantile=0.5,
            largest_step=1.0,
        )

    def epsilon_after(self, steps: int) -> float:
        """Epsilon of this many steps."""
        return sampled_epsilon(self.noise, self.rate, steps, self.delta)

    def sample(self, stream: Keystream) -> NDArray[np.int64]:
        """The records of one step: each with probability `rate`, independently, from secret randomness."""
        if self.batch == self.records:
            return np.arange(self.records)
        threshold = np.uint64((self.batch << 64) // self.records)
        return np.flatnonzero(stream.words(self.records) < threshold)


@dataclass(frozen=True)
class Charge:
    """The steps of a client in a round, paid for: the key of their batches and noise, and epsilon with them."""

    privacy: RecordPrivacy
    key: bytes
    epsilon: float


(KEY,) = MUST_LAST
"""Of the account in a client's memory."""

_SECRET_BYTES = 32


@dataclass(frozen=True)
class _Account:
    """What is on disk: run and secret in hexadecimal, and steps by the commitment to what they are made of."""

    run: str
    secret: str
    noise: float
    records: int
    batch: int
    charges: Mapping[str, int]

    @property
    def steps(self) -> int:
        return sum(self.charges.values())


_ACCOUNT = TypeAdapter(_Account)


def privacy_of(settings: Settings, *, records: int, most: float = 0.0) -> RecordPrivacy:
    """The privacy of a client's records in a run, if the client allows at most this epsilon, 0 for any."""
    privacy = RecordPrivacy.of(
        records=records,
        batch=settings.batch_size * settings.gradient_accumulation_steps,
        steps=max(1, settings.total_steps),
        delta=settings.record_delta,
        epsilon=settings.record_epsilon,
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
    """Digest of everything that a job's gradients are made of, by the identity of the client's data and computation."""
    hasher = hashlib.sha256(identity)
    task = {each.name: getattr(job.settings, each.name) for each in fields(Settings)}
    if not task["group_records"]:
        del task["group_records"]
    hasher.update(json.dumps(task, sort_keys=True).encode())
    carried = job.carried
    moments = carried.moments
    rest = (
        b"" if moments is None else moments.mean.tobytes() + moments.square.tobytes() + repr(moments.steps).encode(),
        repr(carried.learning_rate).encode(),
    )
    for part in (job.spec.digest, job.start.digest(), job.received.digest(), *rest):
        hasher.update(hashlib.sha256(part).digest())
    return hasher.digest()


def charge(
    memory: ClientStore,
    privacy: RecordPrivacy,
    *,
    run_id: bytes,
    inputs: bytes,
    steps: int,
    spent: SpentJournal | None = None,
) -> Charge:
    """Pay for the steps of a round, durably, unless they are paid for already.

    Args:
        memory: of the client; must outlive its process.
        inputs: digest of everything that the gradients are made of: data, adapter, carried values, settings, round.
        spent: pays for the run so far, this round included, before it is charged.
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
        if spent:
            spent.pay(epsilon, privacy.delta)
        charges = {**account.charges, commitment: steps}
        memory.save(KEY, json.dumps({**vars(account), "charges": charges}, sort_keys=True).encode())
    return Charge(privacy, derived(secret, b"round" + bytes.fromhex(commitment)), epsilon)


def records_started(
    settings: Settings, *, clients: int, size: int, group: str = "", continues: bool = False
) -> PrivacyStarted:
    """The event of what a run promises."""
    batch = settings.batch_size * settings.gradient_accumulation_steps
    return PrivacyStarted(
        unit="group" if group else "record",
        group=group,
        group_records=settings.group_records or None,
        adjacency="zero-out",
        observer="everybody, the server too",
        epsilon=settings.record_epsilon,
        delta=settings.record_delta,
        clip_norm=settings.record_clip or None,
        clients=clients,
        parameters=size,
        amplification="by Poisson batches, which each client draws in secret; none by sampling of clients",
        batch=batch,
        steps=settings.total_steps,
        continues=continues,
    )


def _recall(memory: ClientStore, run_id: bytes) -> _Account | None:
    data = memory.load(KEY)
    if data is None:
        return None
    try:
        account = _ACCOUNT.validate_json(data)
        if len(bytes.fromhex(account.secret)) != _SECRET_BYTES:
            raise ValueError
    except ValueError as error:
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


@dataclass(frozen=True)
class RecordCharge(Hook):
    """The hook of one client; the last before training, so that it sees all that the gradients are made of."""

    speaker: ClientContext

    def applies(self, settings: Settings) -> bool:
        """Where records are private."""
        return settings.records_are_private

    def agree(self, size: DataSize, settings: Settings) -> None:
        """Refuse what the policy does not allow, before a step is paid for."""
        self._privacy(size, settings)

    def before(self, job: TrainJob) -> TrainJob:
        """Pay for the steps; how many examples there are stays here."""
        size = job.model.data_size(job.spec, job.settings)
        paid = charge(
            self.speaker.memory,
            self._privacy(size, job.settings),
            run_id=job.run_id,
            inputs=made_of(job, size.identity),
            steps=job.settings.steps_taken,
            spent=SpentJournal.of(self.speaker),
        )
        return replace(job, charge=paid, examples=0)

    def after(self, job: TrainJob, outgoing: Outgoing) -> tuple[Outgoing, None]:
        """The update states what it has cost so far, and nothing that has no noise."""
        return replace(outgoing, metrics={EPSILON: job.charge.epsilon if job.charge else 0.0}), None

    def _privacy(self, size: DataSize, settings: Settings) -> RecordPrivacy:
        terms, spent = self.speaker.terms, SpentJournal.of(self.speaker)
        if settings.group_records and not size.groups:
            raise PolicyError(
                "the run protects the records of a group together, and this client's data name no group; give --group "
                "COLUMN with the one that names whom a record belongs to"
            )
        units = size.groups if settings.group_records else size.train_examples
        most = terms.policy.most_epsilon_of_run if terms and terms.policy else 0.0
        privacy = privacy_of(settings, records=units, most=most)
        if spent:
            spent.check(privacy.epsilon_after(max(1, settings.total_steps)))
        return privacy


@dataclass(frozen=True)
class RecordCosts(PrivacyBudget):
    """The costs of one run's records, of which clients keep accounts and, without masks, report them."""

    settings: Settings
    recorded: Collection[int] = ()
    masked: bool = False
    withholds = True

    def spent(self, state: RunState, epsilons: Mapping[str, float]) -> Event | None:
        """The largest epsilon, and each client's; under masks none reports, and it is at most the run's."""
        if state.finished is None or state.round in self.recorded or not (epsilons or self.masked):
            return None
        most, by_client = self.settings.record_epsilon, dict(sorted(epsilons.items()))
        epsilon, delta = max(epsilons.values(), default=most), self.settings.record_delta
        return PrivacySpent(round=state.round, epsilon=epsilon, delta=delta, by_client=by_client)
