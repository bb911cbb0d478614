"""The client's side of a run: decode a task, bring the adapter up to date, train or evaluate, answer.

Knows no torch, no Flower and no socket: the model is a `LocalModel`, and what must outlive one task is in a `Memory`.
Answers carry counts, losses and codes; never text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np

from plait.abandon import Abandoned
from plait.adapters import (
    AdapterSpec,
    AdapterState,
    Float32,
    Layout,
    SpecRequest,
    check_finite,
    parse_spec,
    subtract,
)
from plait.aggregation import BOTH_SIDES, Geometry, Side, geometry_of
from plait.errors import (
    BaseMismatchError,
    ConfigError,
    DataError,
    DiskFullError,
    PeerError,
    PlaitError,
    PolicyError,
    TooLittleDataError,
)
from plait.rounds.broadcasts import take_step
from plait.rounds.drift import Drift
from plait.rounds.error_feedback import Debt
from plait.rounds.evaluation import Judgement
from plait.rounds.local_model import Carried, LocalModel, Trained, TrainJob
from plait.rounds.memory import Memory
from plait.rounds.moments import Moments
from plait.rounds.moved_base import UNMOVED, MovedBase, base_from_bytes, base_to_bytes, layout_from_text, whole_base
from plait.rounds.own_adapter import own_adapter, own_adapter_bytes, own_lead, read_own_adapter, share_at_start
from plait.rounds.own_side import own_bytes, with_own, without
from plait.rounds.past import Past, recall_past
from plait.rounds.terms import Asked, Terms
from plait.wire.codecs import codec_for
from plait.wire.envelope import (
    Direction,
    EncodedDelta,
    Header,
    Opened,
    encode_delta,
    open_envelope,
    read_header,
    seal,
)
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UpdateReply,
    decode_task,
    encode_reply,
)
from plait.wire.settings import Settings
from plait.wire.signature import with_signature

_Given = TypeVar("_Given")


class NeedFullError(PeerError):
    """The broadcast is relative to an adapter that this client does not hold."""


class Participant:
    """One client of one run.

    Args:
        name: what the client is called.
        model: base and data.
        memory: what survives between tasks.
        max_rank: the largest rank that it can carry; 0 for any.
        sign: makes a signature of 64 bytes; without it updates are not signed.
        max_task_bytes: larger tasks are refused unread.
        terms: what the client agreed to; whatever differs is refused. None takes any task.
    """

    def __init__(
        self,
        name: str,
        model: LocalModel,
        memory: Memory,
        *,
        max_rank: int = 0,
        sign: Callable[[bytes], bytes] | None = None,
        max_task_bytes: int = 1 << 31,
        terms: Terms | None = None,
    ) -> None:
        self._name = name
        self._model = model
        self._memory = memory
        self._max_rank = max_rank
        self._sign = sign
        self._max_task_bytes = max_task_bytes
        self._terms = terms
        self._policy = terms.policy if terms else None

    def answer(self, task_bytes: bytes) -> bytes:
        """Do what one task asks; whatever is wrong with it becomes a refusal with a reason code.

        Raises:
            Abandoned: nobody waits for it any more.
            DiskFullError: this machine's disk is full; whoever runs the client knows whose that is.
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
        """Do what one task asks up to its training.

        Returns:
            The job to train, or the encoded reply where nothing is to be trained.

        Raises:
            Abandoned: nobody waits for it any more.
            DiskFullError: this machine's disk is full.
        """
        return self._answering(lambda: self._work(task_bytes))

    def finish(self, job: TrainJob, trained: Trained | PlaitError) -> bytes:
        """The encoded reply to a task once its job is done.

        Args:
            job: what `begin` gave.
            trained: what training left behind, or the error that ended it.

        Raises:
            Abandoned: nobody waits for it any more.
            DiskFullError: this machine's disk is full.
        """
        return self._answering(lambda: self._update(job, trained))

    def _answering(self, work: Callable[[], _Given]) -> _Given | bytes:
        try:
            return work()
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            return encode_reply(Refusal(self._name, _reason(error), str(error)))

    def _work(self, task_bytes: bytes) -> TrainJob | bytes:
        task = decode_task(task_bytes, max_bytes=self._max_task_bytes)
        if self._terms:
            self._terms.check_task(task)
        if isinstance(task, DescribeTask):
            return encode_reply(self._describe(task))
        header = read_header(task.broadcast, max_bytes=len(task.broadcast))
        if self._terms:
            self._terms.check_header(header, task)
        spec, state = self._catch_up(header, task.broadcast)
        base = self._moved_base(task.base, header, geometry_of(spec))
        if self._policy:
            Asked.recall(self._memory).note(self._memory, header, base.digest, task, self._policy.max_repeats)
        if isinstance(task, TrainTask):
            return self._job(header, spec, state, base, task.settings)
        return encode_reply(self._evaluate(header, spec, state, base, task.settings))

    def _describe(self, task: DescribeTask) -> ClientCard:
        request = parse_spec(task.spec_json)
        if self._carries(request):
            spec, _ = self._model.prepare(task.spec_json)
            # An adapter that is held stays: a server that was restarted asks again and goes on from it.
            self._memory.save("spec", task.spec_json.encode())
        else:
            # The server reads in the card what it may ask for instead; nothing is built.
            spec = request.unbuilt()
        size = self._model.data_size(spec, task.settings)
        if self._terms:
            self._check_coverage(spec, self._terms.tasks.to_train(1, self._name))
        return ClientCard(
            client=self._name,
            base_fingerprint=self._model.base_fingerprint,
            spec_digest=spec.digest,
            train_examples=size.train_examples,
            train_tokens=size.train_tokens,
            held_out_examples=size.held_out_examples,
            held_out_tokens=size.held_out_tokens,
            histogram=size.histogram,
            max_rank=self._max_rank,
        )

    def _job(
        self, header: Header, spec: AdapterSpec, received: AdapterState, base: MovedBase, settings: Settings
    ) -> TrainJob:
        size = self._model.data_size(spec, settings)
        self._check_coverage(spec, settings)
        pasts = {key: recall_past(self._memory, key, header.run_id) for key in ("own", "moments", "drift")}
        own = pasts["own"].given_in(settings.round)[1]
        start = (
            with_own(received, own, geometry_of(spec), Side(settings.personal))
            if settings.personal
            else own_adapter(received, own, share_at_start(settings))
        )
        carried, _ = _carried(pasts, received, settings)
        return TrainJob(self._model, spec, settings, received, start, carried, base, header, size.train_examples, pasts)

    def _update(self, job: TrainJob, trained: Trained | PlaitError) -> bytes:
        if isinstance(trained, PlaitError):
            raise trained
        header, settings, received, pasts = job.header, job.settings, job.received, job.pasts
        if header is None:
            raise ValueError("the job answers no task")
        geometry = geometry_of(job.spec)
        own = pasts["own"].given_in(settings.round)[1]
        _, correction = _carried(pasts, received, settings)
        try:
            check_finite(trained.state)
        except PeerError as error:
            raise PlaitError(f"training diverged: {error}") from error
        delta = subtract(trained.state, job.start)
        if settings.personal:
            self._leave("own", pasts, settings, own_bytes(trained.state, geometry, Side(settings.personal)))
            delta = without(delta, geometry, Side(settings.personal))
        elif settings.own_share:
            lead = own_lead(trained.state, received, own, settings)
            self._leave("own", pasts, settings, own_adapter_bytes(lead, settings.own_share))
        if settings.carry_moments and trained.moments:
            self._leave("moments", pasts, settings, trained.moments.to_bytes())
        if settings.scaffold:
            rest = -delta.flat if correction is None else correction - delta.flat
            self._leave("drift", pasts, settings, Drift(received.flat, rest).to_bytes())
        encoded = self._encode(header.run_id, geometry, settings, delta)
        sealed = seal(
            Header(
                direction=Direction.UPDATE,
                run_id=header.run_id,
                round=settings.round,
                client=self._name,
                base_fingerprint=header.base_fingerprint,
                spec_digest=header.spec_digest,
                relative_to=header.result_digest,
                examples=job.examples,
                metrics={
                    "train_loss": trained.loss,
                    "train_tokens": float(trained.tokens),
                    "train_s": trained.seconds,
                    "distortion": encoded.encoding.distortion or 0.0,
                    "codec_s": encoded.encoding.codec_s,
                },
            ),
            encoded,
        )
        if self._policy:
            self._policy.check_upload(len(sealed.data))
        return encode_reply(UpdateReply(with_signature(sealed.data, self._sign) if self._sign else sealed.data))

    def _check_coverage(self, spec: AdapterSpec, settings: Settings) -> None:
        if self._policy:
            covered = self._model.coverage(spec, settings)
            self._policy.check_coverage(examples=covered.examples, tokens=covered.tokens)

    def _encode(self, run_id: bytes, geometry: Geometry, settings: Settings, delta: AdapterState) -> EncodedDelta:
        """Encode a delta with what earlier rounds still owe, and keep what this encoding drops."""
        if settings.without_feedback:
            return encode_delta(delta, codec_for(settings.wire))
        codec = codec_for(settings.wire)
        past = recall_past(self._memory, "residual", run_id)
        _, kept = past.given_in(settings.round)
        debt = Debt.from_bytes(kept, delta.layout).grown(delta, codec)
        # What is owed on a side that does not train waits for the round that trains it.
        due = debt.due(codec)
        for side in BOTH_SIDES - set(map(Side, settings.trained)):
            due = without(due, geometry, side)
        encoded = encode_delta(due, codec)
        left = debt.paid(encoded.delta)
        self._memory.save("residual", past.settled(settings.round, left.to_bytes()).to_bytes())
        return encoded

    def _leave(self, key: str, pasts: Mapping[str, Past], settings: Settings, data: bytes) -> None:
        self._memory.save(key, pasts[key].settled(settings.round, data).to_bytes())

    def _evaluate(
        self, header: Header, spec: AdapterSpec, state: AdapterState, base: MovedBase, settings: Settings
    ) -> Evaluation:
        kept = recall_past(self._memory, "own", header.run_id).after
        if settings.personal:
            state = with_own(state, kept, geometry_of(spec), Side(settings.personal))
        judged = self._model.evaluate(spec, state, settings, base)
        if header.round == 0:
            self._memory.save("judged", header.run_id + judged.to_bytes())
        before = self._judged_before(header)
        result, own = judged.since(before), None
        if settings.own_share and read_own_adapter(kept, state.layout.size):
            mine = own_adapter(state, kept, settings.own_share)
            own = self._model.evaluate(spec, mine, settings, base).since(before)
        return Evaluation(
            client=self._name,
            round=header.round,
            loss=result.loss,
            tokens=result.tokens,
            correct=result.correct,
            examples=result.examples,
            own_loss=own and own.loss,
            own_correct=own and own.correct,
            loss_error=result.error,
            change=result.change,
            change_error=result.change_error,
            own_loss_error=own and own.error,
            own_change=own and own.change,
            own_change_error=own and own.change_error,
        )

    def _judged_before(self, header: Header) -> Judgement | None:
        """What the adapter that the run began with made of the held-out part; None where that is not known."""
        data = self._memory.load("judged") or b""
        if header.round == 0 or not data.startswith(header.run_id):
            return None
        return Judgement.from_bytes(data[len(header.run_id) :])

    def _catch_up(self, header: Header, broadcast: bytes) -> tuple[AdapterSpec, AdapterState]:
        """The adapter that the server means by `header`, from what is held and what the broadcast carries."""
        if header.direction != Direction.BROADCAST:
            raise PeerError("envelope is an update, expected a broadcast")
        if header.base_fingerprint != self._model.base_fingerprint:
            raise BaseMismatchError(
                f"base of the broadcast is {header.base_fingerprint.hex()[:16]}, "
                f"expected {self._model.base_fingerprint.hex()[:16]}"
            )
        spec_json = header.spec_json or self._recall("spec").decode()
        if not self._carries(request := parse_spec(spec_json)):
            raise ConfigError(
                f"rank of the adapter is {request.largest_rank}, expected at most {self._max_rank}, "
                "this client's max-rank"
            )
        spec, initial = self._model.prepare(spec_json)
        if spec.digest != header.spec_digest:
            raise NeedFullError(f"adapter spec is {header.spec_digest.hex()[:16]}, held is {spec.digest.hex()[:16]}")
        opened = open_envelope(broadcast, layout=spec.layout)
        state = opened.delta
        if header.relative_to:
            state = self._step(header, opened, (self._held(spec.layout), initial))
        if state.digest() != header.result_digest:
            raise NeedFullError("the adapter after the broadcast is not the one that the server means")
        self._hold(spec_json, state)
        return spec, state

    def _carries(self, request: SpecRequest) -> bool:
        return not self._max_rank or request.largest_rank <= self._max_rank

    def _step(self, header: Header, opened: Opened, candidates: Iterable[AdapterState | None]) -> AdapterState:
        for candidate in filter(None, candidates):
            digest = candidate.digest()
            if digest == header.result_digest:
                return candidate
            if digest == header.relative_to:
                return take_step(candidate, opened.delta, opened.encoding.codec)
        raise NeedFullError(f"adapter {header.relative_to.hex()[:16]} is not held here")

    def _moved_base(self, data: bytes, header: Header, geometry: Geometry) -> MovedBase:
        """The base that the server means: the one held, or what the step (or the whole) beside the adapter makes."""
        if not data:
            return UNMOVED
        held = self._held_base(header.run_id, geometry)
        said = read_header(data, max_bytes=len(data))
        if said.direction != Direction.BROADCAST or said.run_id != header.run_id:
            raise PeerError("change of the base is no broadcast of this run")
        if said.result_digest == held.digest:
            return held
        if said.relative_to and said.relative_to != held.digest:
            raise NeedFullError(f"base {said.relative_to.hex()[:16]} is not held here")
        change = open_envelope(data, layout=layout_from_text(said.spec_json, geometry)).delta
        moved = held.after(change, geometry) if said.relative_to else whole_base(change, geometry, said.result_digest)
        if moved.digest != said.result_digest:
            raise NeedFullError("the base after its change is not the one that the server means")
        self._memory.save("base", header.run_id + base_to_bytes(moved, geometry))
        return moved

    def _held_base(self, run_id: bytes, geometry: Geometry) -> MovedBase:
        data = self._memory.load("base") or b""
        return base_from_bytes(data[len(run_id) :] if data.startswith(run_id) else None, geometry)

    def _recall(self, key: str) -> bytes:
        data = self._memory.load(key)
        if data is None:
            raise NeedFullError(f"nothing is held under '{key}'")
        return data

    def _held(self, layout: Layout) -> AdapterState | None:
        data = self._memory.load("adapter")
        if data is None or len(data) != 4 * layout.size:
            return None
        return AdapterState(layout, np.frombuffer(data, np.float32))

    def _hold(self, spec_json: str, state: AdapterState) -> None:
        self._memory.save("spec", spec_json.encode())
        self._memory.save("adapter", state.flat.tobytes())


def _carried(pasts: Mapping[str, Past], received: AdapterState, settings: Settings) -> tuple[Carried, Float32 | None]:
    """What training goes on with, and SCAFFOLD's whole correction over the round's steps."""
    size, tensors = received.layout.size, len(received.layout.slots)
    moments = correction = None
    if settings.carry_moments:
        moments = Moments.from_bytes(pasts["moments"].given_in(settings.round)[1], size, tensors)
    if settings.scaffold:
        number, data = pasts["drift"].given_in(settings.round)
        if drift := Drift.from_bytes(data, size):
            correction = drift.correction(received, rounds=settings.round - number)
    step = None if correction is None else correction / np.float32(settings.local_steps)
    return Carried(moments, step), correction


def _reason(error: PlaitError) -> RefusalReason:
    if isinstance(error, NeedFullError):
        return RefusalReason.NEED_FULL
    if isinstance(error, BaseMismatchError):
        return RefusalReason.BASE_MISMATCH
    if isinstance(error, TooLittleDataError):
        return RefusalReason.TOO_LITTLE_DATA
    if isinstance(error, DataError):
        return RefusalReason.UNUSABLE_DATA
    if isinstance(error, ConfigError):
        return RefusalReason.SPEC_MISMATCH
    if isinstance(error, PolicyError):
        return RefusalReason.POLICY
    if isinstance(error, PeerError):
        return RefusalReason.MALFORMED
    return RefusalReason.FAILED
