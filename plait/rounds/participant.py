"""The client's side of a run: decode a task, bring the adapter up to date, train or evaluate, answer.

Training is a pipeline: `begin` decodes a task and runs `HOOKS` forward; the driver trains the resulting job, alone or
with others; `finish` runs the hooks backward and packs the answer.

Knows no torch, no Flower and no socket: the model is a `LocalModel`, and values that outlive a task are in a `Memory`.
Answers carry counts, losses and codes; never text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TypeVar

import numpy as np

from plait.abandon import Abandoned
from plait.adapters import AdapterSpec, AdapterState, check_finite, norm, parse_spec
from plait.aggregation import Side, geometry_of, slices_of
from plait.errors import (
    BaseMismatchError,
    ConfigError,
    DataError,
    DiskFullError,
    PartError,
    PeerError,
    PlaitError,
    PolicyError,
    TooLittleDataError,
)
from plait.privacy.record import RecordPrivacy
from plait.rounds.carried_moments import CarriedMoments
from plait.rounds.client_secret import ClientSecret
from plait.rounds.client_state import ClientState, Kept, recall_state
from plait.rounds.data_journal import DataJournal
from plait.rounds.drift import Scaffold
from plait.rounds.error_feedback import ErrorFeedback
from plait.rounds.evaluation import SequenceLosses, client_losses, evaluation_of
from plait.rounds.feddyn import FedDyn
from plait.rounds.figures import EVALUATION, NOISED, TRAINING, encode_figures, evaluation_figures
from plait.rounds.found_rate import FoundRate
from plait.rounds.holdings import Holdings, NeedFullError
from plait.rounds.hook import Hook, Outgoing, after_training, before_training
from plait.rounds.local_model import DataSize, LocalModel, Trained, TrainJob
from plait.rounds.masked_grid import MaskedGrid
from plait.rounds.masked_rounds import check_grid, privacy_of_clients
from plait.rounds.masking import Masking, NodeIdentity
from plait.rounds.memory import Memory
from plait.rounds.moved_base import MovedBase
from plait.rounds.own_adapter import OwnShare, own_adapter, share_measured
from plait.rounds.own_side import OwnSide, with_own
from plait.rounds.record_accountant import charge, made_of, privacy_of
from plait.rounds.slope import Slope
from plait.rounds.terms import Asked, Terms
from plait.wire.envelope import EPSILON, Direction, Encoding, Header, encode_delta, read_envelope, seal
from plait.wire.masking import MaskedReply, MaskingTask
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UnknownSettingsError,
    UpdateReply,
    decode_task,
    encode_reply,
)
from plait.wire.settings import Settings
from plait.wire.signature import with_signature

_Given = TypeVar("_Given")

_LEAST_AVERAGED = 4
"""Sequences that a reported loss or slope is at least the mean of."""

HOOKS: tuple[Hook, ...] = (
    ErrorFeedback(),
    Scaffold(),
    FedDyn(),
    CarriedMoments(),
    FoundRate(),
    OwnShare(),
    OwnSide(),
    Slope(),
)
"""The hooks around training. Error feedback packs the delta, so it comes first, and last on the way back."""


@dataclass(eq=False)
class Participant:
    """One client of one run.

    Attributes:
        memory: survives between tasks.
        max_rank: the largest rank that it can carry; 0 for any.
        sign: makes a signature of 64 bytes; without it updates are not signed.
        max_task_bytes: larger tasks are refused unread.
        terms: the client's agreement; tasks that differ are refused. None accepts any task.
        hooks: run around training.
        identity: for sums under masks; without one they are refused.
        journal: of its data, over all runs; None where there is none, as in a simulation.
        secret: decides batches and rounding under masks; if None, one is drawn and kept in `memory`.
        refusal: why the newest task was refused, for this client's operator; empty if it was not.
    """

    name: str
    model: LocalModel
    memory: Memory
    _: KW_ONLY
    max_rank: int = 0
    sign: Callable[[bytes], bytes] | None = None
    max_task_bytes: int = 1 << 31
    terms: Terms | None = None
    hooks: Sequence[Hook] = HOOKS
    identity: NodeIdentity | None = None
    secret: ClientSecret | None = None
    journal: DataJournal | None = None

    def __post_init__(self) -> None:
        self.refusal = ""
        settings = self.terms.tasks.plan.settings if self.terms else None
        self._records_are_private = bool(settings and settings.records_are_private)
        self._adds_share = bool(settings and settings.adds_share)
        self._counts_stay = bool(settings and settings.counts_stay)
        self._masking = Masking(self.name, self.memory, self.identity, self.journal)
        self._holdings = Holdings(self.model, self.memory, max_rank=self.max_rank)
        self._policy = self.terms.policy if self.terms else None

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task; an invalid one is answered by a refusal with a reason code.

        Raises:
            Abandoned: nobody waits for it any more.
            DiskFullError: this machine's disk is full; the driver knows whose machine it is.
        """
        job = self.begin(task_bytes)
        if isinstance(job, bytes):
            return job
        try:
            trained = job.model.train(job)
        except PlaitError as error:
            return self.finish(job, error)
        return self.finish(job, trained)

    def begin(self, task_bytes: bytes) -> TrainJob | bytes:
        """Do one task up to its training.

        Returns:
            The job to train, or the encoded reply if there is nothing to train.

        Raises:
            Abandoned: nobody waits for it any more.
            DiskFullError: this machine's disk is full.
        """
        return self._answering(lambda: self._work(task_bytes))

    def finish(self, job: TrainJob, trained: Trained | PlaitError) -> bytes:
        """The encoded reply to a task once its job is done.

        Args:
            job: from `begin`.
            trained: the result of training, or the error that ended it.

        Raises:
            Abandoned: nobody waits for it any more.
            DiskFullError: this machine's disk is full.
        """
        return self._answering(lambda: self._update(job, trained))

    @property
    def _secret(self) -> ClientSecret:
        return self.secret or ClientSecret.of(self.memory)

    def _seeded(self, settings: Settings) -> Settings:
        """The settings with the client's own seed, where the server may not know its batches."""
        return self._secret.seeded(settings) if settings.secure_aggregation else settings

    def _answering(self, work: Callable[[], _Given]) -> _Given | bytes:
        self.refusal = ""
        try:
            return work()
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            self.refusal = str(error)
            # Counts of records, and what is wrong with them, have neither noise nor mask. What it did itself a server
            # knows.
            is_noised = self._records_are_private or self._adds_share
            is_of_server = isinstance(error, PeerError) and not isinstance(error, PolicyError)
            is_told = not is_noised and (is_of_server or not self._counts_stay)
            told = self.refusal if is_told else "this client's log says why"
            return encode_reply(Refusal(self.name, reason_of(error), told))

    def _work(self, task_bytes: bytes) -> TrainJob | bytes:
        held = self._holdings.settings_text
        task = decode_task(task_bytes, max_bytes=self.max_task_bytes, held=held)
        if self.terms:
            self.terms.check_task(task)
        self._counts_stay = not isinstance(task, MaskingTask) and task.settings.counts_stay
        if not isinstance(task, MaskingTask):
            self._records_are_private, self._adds_share = task.settings.records_are_private, task.settings.adds_share
        if isinstance(task, DescribeTask):
            return encode_reply(self._describe(task))
        if isinstance(task, MaskingTask):
            return encode_reply(self._masking.answer(task))
        broadcast = read_envelope(task.broadcast, max_bytes=len(task.broadcast))
        header = broadcast.header
        if self.terms:
            self.terms.check_header(header, task)
        spec, state = self._holdings.catch_up(broadcast)
        self._holdings.keep_settings(task.settings)
        base = self._holdings.moved_base(task.base, header, spec)
        if self._policy:
            Asked.recall(self.memory).note(self.memory, header, base.digest, task, self._policy.max_repeats)
        if isinstance(task, TrainTask):
            return self._job(header, spec, state, base, task.settings)
        if self._records_are_private or self._adds_share:
            unit = "record" if self._records_are_private else "client"
            raise PolicyError(f"losses are asked for, expected none: dp of the run is '{unit}', and they have no noise")
        return encode_reply(self._evaluated(header, spec, state, base, task.settings))

    def _describe(self, task: DescribeTask) -> ClientCard:
        request = parse_spec(task.spec_json)
        if self._holdings.carries(request):
            spec, _ = self.model.prepare(task.spec_json)
            self._holdings.keep_spec(task.spec_json)
            self._holdings.keep_settings(task.settings)
        else:
            # The server reads in the card which rank to ask for instead; nothing is built.
            spec = request.unbuilt()
        size = self.model.data_size(spec, task.settings)
        if self.terms:
            self._check_coverage(spec, self._seeded(self.terms.tasks.to_train(1, self.name)))
        if task.settings.records_are_private:
            # What the policy does not allow is refused before a step is paid for.
            self._privacy(size, task.settings)
        if task.settings.counts_stay:
            # How much data a client has is its own affair, too.
            size = DataSize(0, 0, 0, 0, {})
        return ClientCard(
            client=self.name,
            base_fingerprint=self.model.base_fingerprint,
            spec_digest=spec.digest,
            train_examples=size.train_examples,
            train_tokens=size.train_tokens,
            held_out_examples=size.held_out_examples,
            held_out_tokens=size.held_out_tokens,
            histogram=size.histogram,
            max_rank=self.max_rank,
            cut_examples=size.cut_examples,
            left_out_examples=size.left_out_examples,
        )

    def _job(
        self, header: Header, spec: AdapterSpec, received: AdapterState, base: MovedBase, settings: Settings
    ) -> TrainJob:
        settings = self._seeded(settings)
        size = self.model.data_size(spec, settings)
        self._check_coverage(spec, settings)
        if settings.adds_share and not settings.secure_aggregation:
            raise PolicyError("an update with a share of the noise is asked for without masks, expected a masked sum")
        grid = self._grid(header, spec, settings) if settings.secure_aggregation else None
        job = TrainJob(
            self.model,
            spec,
            settings,
            received,
            start=received,
            base=base,
            header=header,
            examples=0 if settings.records_are_private else size.train_examples,
            grid=grid,
            rounding=self._secret.rounding(settings.round, header.result_digest) if grid else b"",
            client=self.name,
        )
        self._pay_for_client()
        job = before_training(self.hooks, job, self.memory)
        if not settings.records_are_private:
            return job
        paid = charge(
            self.memory,
            self._privacy(size, settings),
            run_id=header.run_id,
            inputs=made_of(job, size.identity),
            steps=settings.steps_taken,
            pay=self._pay,
        )
        return replace(job, charge=paid)

    def _privacy(self, size: DataSize, settings: Settings) -> RecordPrivacy:
        most = self._policy.most_epsilon_of_run if self._policy else 0.0
        privacy = privacy_of(settings, records=size.train_examples, most=most)
        if self.journal and self._policy:
            whole = privacy.epsilon_after(max(1, settings.total_steps))
            self.journal.check_budget(self._secret.account, whole, self._policy.most_epsilon)
        return privacy

    def _pay(self, epsilon: float, delta: float) -> None:
        """Record what the run will have spent of the client's data, before anything leaves.

        Raises:
            PolicyError: all runs together would have spent too much.
        """
        if self.journal and self._policy:
            self.journal.charge(self._secret.account, epsilon, delta, self._policy.most_epsilon)

    def _pay_for_client(self) -> None:
        """Pay for what a run's noise hides of the client: all its rounds, and updates given again with other noise."""
        privacy = self.terms.privacy if self.terms else None
        if privacy is not None and self.terms:
            rounds = self.terms.tasks.plan.rounds + Asked.recall(self.memory).repeats
            self._pay(privacy.epsilon_after(rounds), privacy.delta)

    def _update(self, job: TrainJob, trained: Trained | PlaitError) -> bytes:
        if isinstance(trained, PlaitError):
            raise trained
        try:
            check_finite(trained.state)
        except PeerError as error:
            raise PlaitError(f"training diverged: {error}") from error
        outgoing = after_training(self.hooks, job, trained, self.memory)
        if job.grid is not None:
            return self._masked(job, job.grid, outgoing)
        update = self._sealed(job, outgoing)
        if self._policy:
            self._policy.check_upload(len(update))
        return encode_reply(UpdateReply(with_signature(update, self.sign) if self.sign else update))

    def _sealed(self, job: TrainJob, outgoing: Outgoing) -> bytes:
        """The update as an envelope."""
        header, trained = job.header, outgoing.trained
        if header is None:
            raise ValueError("the job belongs to no task")
        encoded = outgoing.encoded or encode_delta(outgoing.delta, job.settings.codec)
        said = Header(
            direction=Direction.UPDATE,
            run_id=header.run_id,
            round=job.settings.round,
            client=self.name,
            base_fingerprint=header.base_fingerprint,
            spec_digest=header.spec_digest,
            relative_to=header.result_digest,
            examples=job.examples,
            metrics=_said(job, trained, encoded.encoding),
        )
        return seal(said, encoded).data

    def _grid(self, header: Header, spec: AdapterSpec, settings: Settings) -> MaskedGrid:
        roster = self._masking.roster_for(header.run_id, "train", settings.round)
        sides = {Side(each) for each in settings.trained} - ({Side(settings.personal)} if settings.personal else set())
        grid = MaskedGrid.of(
            slices_of(geometry_of(spec), sides),
            received=header.result_digest,
            number=settings.round,
            bits=roster.bits,
            unit=roster.unit,
            clients=len(roster.offers),
        )
        size, figures = grid.rotation.rotated_size, len(NOISED if settings.adds_share else TRAINING)
        if (roster.size, roster.figures) != (size, figures):
            raise PeerError(
                f"masked sum has {roster.size} numbers and {roster.figures} figures, expected {size} and {figures}"
            )
        if settings.adds_share:
            clients = len(roster.offers)
            check_grid(privacy_of_clients(settings), size, bits=roster.bits, unit=roster.unit, clients=clients)
        return grid

    def _masked(self, job: TrainJob, grid: MaskedGrid, outgoing: Outgoing) -> bytes:
        """The update under masks."""
        header = job.header
        if header is None:
            raise ValueError("the job belongs to no task")
        roster = self._masking.roster_for(header.run_id, "train", job.settings.round)
        if job.settings.adds_share:
            if self._policy:
                Asked.recall(self.memory).note_noised(self.memory, roster, self._policy.max_repeats)
                self._pay_for_client()
            numbers, within = grid.noised(
                outgoing.delta,
                privacy_of_clients(job.settings),
                survivors=roster.threshold,
                key_of=lambda digest: self._masking.noise_key(roster.session, digest),
            )
            figures = encode_figures({"within": within}, NOISED)
        else:
            numbers = outgoing.numbers
            if numbers is None:
                numbers = grid.encode(outgoing.delta, key=job.rounding)
            figures = encode_figures({"square": (norm(outgoing.delta) / grid.coding.unit) ** 2}, TRAINING)
        reply = self._masking.masked(roster.session, numbers, figures, received=header.result_digest)
        update = encode_reply(reply)
        if self._policy:
            self._policy.check_upload(len(update))
        return update

    def _evaluated(
        self, header: Header, spec: AdapterSpec, state: AdapterState, base: MovedBase, settings: Settings
    ) -> Evaluation | MaskedReply:
        """The client's losses; under masks where the server may learn sums alone."""
        if not settings.secure_aggregation:
            return self._evaluate(header, spec, state, base, settings)
        roster = self._masking.roster_for(header.run_id, "evaluate", settings.round)
        if (roster.size, roster.figures) != (0, len(EVALUATION)):
            raise PeerError(f"masked sum has {roster.figures} figures, expected {len(EVALUATION)}")
        shared, own = client_losses(self._evaluate(header, spec, state, base, settings))
        figures = encode_figures(evaluation_figures(shared, own), EVALUATION)
        none = np.zeros(0, np.int32)
        return self._masking.masked(roster.session, none, figures, received=header.result_digest)

    def _check_coverage(self, spec: AdapterSpec, settings: Settings) -> None:
        if self._policy:
            covered = self.model.coverage(spec, settings)
            self._policy.check_coverage(examples=covered.examples, tokens=covered.tokens)

    def _evaluate(
        self, header: Header, spec: AdapterSpec, state: AdapterState, base: MovedBase, settings: Settings
    ) -> Evaluation:
        kept = recall_state(self.memory, "own", header.run_id).after
        if settings.personal:
            state = with_own(state, kept, geometry_of(spec), Side(settings.personal))
        measured = self.model.evaluate(spec, state, settings, base)
        if header.round == 0:
            self._keep_first(header.run_id, measured)
        before = self._first(header.run_id) if header.round else None
        result, own = measured.since(before), None
        mine = own_adapter(state, kept, share_measured(settings))
        if mine is not state:
            own = self.model.evaluate(spec, mine, settings, base).since(before)
        return evaluation_of(self.name, header.round, result, own)

    def _keep_first(self, run_id: bytes, measured: SequenceLosses) -> None:
        kept = Kept(tags={"losses": measured.to_bytes().decode()})
        self.memory.save("judged", ClientState(run_id, after=kept).to_bytes())

    def _first(self, run_id: bytes) -> SequenceLosses | None:
        """Losses of the run's initial adapter; None if unknown."""
        kept = recall_state(self.memory, "judged", run_id).after
        return SequenceLosses.from_bytes(kept.tags.get("losses", "").encode())


def _said(job: TrainJob, trained: Trained, encoding: Encoding) -> dict[str, float]:
    """What an update says of its training; of private records no more than what they have cost."""
    if job.charge:
        return {EPSILON: job.charge.epsilon}
    return {
        "train_loss": trained.loss,
        **_of_first_batch(job, trained),
        **_figures(
            learning_rate=trained.learning_rate,
            shortened=trained.shortened,
            reward=trained.reward,
            refused_completions=trained.refused_completions,
        ),
        "train_tokens": float(trained.tokens),
        "train_s": trained.seconds,
        "distortion": encoding.distortion or 0.0,
        "codec_s": encoding.codec_s,
    }


def _of_first_batch(job: TrainJob, trained: Trained) -> dict[str, float]:
    """The metrics of the first step; left out where they would be those of very few sequences."""
    sequences = job.settings.batch_size * job.settings.gradient_accumulation_steps
    if sequences < _LEAST_AVERAGED:
        return {}
    return _figures(first_loss=trained.first_loss, slope=trained.slope)


def _figures(**figures: float | None) -> dict[str, float]:
    """The metrics that the trainer reports."""
    return {name: figure for name, figure in figures.items() if figure is not None}


def reason_of(error: PlaitError) -> RefusalReason:
    """The code for why a task was refused."""
    if isinstance(error, (NeedFullError, UnknownSettingsError)):
        return RefusalReason.NEED_FULL
    if isinstance(error, BaseMismatchError):
        return RefusalReason.BASE_MISMATCH
    if isinstance(error, TooLittleDataError):
        return RefusalReason.TOO_LITTLE_DATA
    if isinstance(error, DataError):
        return RefusalReason.UNUSABLE_DATA
    if isinstance(error, ConfigError) and not isinstance(error, PartError):
        return RefusalReason.SPEC_MISMATCH
    if isinstance(error, PolicyError):
        return RefusalReason.POLICY
    if isinstance(error, PeerError):
        return RefusalReason.MALFORMED
    return RefusalReason.FAILED
