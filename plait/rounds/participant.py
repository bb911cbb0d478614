"""The client's side of a run: decode a task, bring the adapter up to date, train or evaluate, answer.

The server can send again all that a client holds of settings and adapter: one that lost it asks for it. Knows no torch,
no Flower and no socket. Answers carry counts, losses and codes; never text.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Layout, check_finite, parse_spec
from plait.aggregation import Side, geometry_of
from plait.compress.downlink import take_step
from plait.errors import (
    Abandoned,
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
from plait.rounds.client_pipeline import (
    HOOKS,
    ClientPipeline,
    ErrorFeedback,
    Hook,
    PlainSender,
    after_training,
    before_training,
    own_adapter,
    share_measured,
    with_own,
)
from plait.rounds.evaluation import SequenceLosses, evaluation_of
from plait.rounds.local_model import DataSize, LocalModel, Trained, TrainJob
from plait.rounds.memory import ClientState, ClientStore, Kept, recall_state
from plait.rounds.terms import AgreedTerms, TaskHistory
from plait.wire.envelope import Direction, Header, Opened, Received, read_envelope, unpack
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UnknownSettingsError,
    check_layout,
    decode_task,
    encode_reply,
)
from plait.wire.settings import Settings, digest_of


class NeedFullError(PeerError):
    """A task is relative to something that this client does not hold."""


@dataclass(eq=False)
class Participant:
    """One client of one run.

    Attributes:
        terms: the client's agreement; tasks that differ are refused. None accepts any task.
        on_fault: told why a task is refused.
        refusal: why the newest task was refused, for this client's operator; empty if it was not.
    """

    name: str
    model: LocalModel
    memory: ClientStore
    _: KW_ONLY
    max_rank: int = 0
    max_task_bytes: int = 1 << 31
    terms: AgreedTerms | None = None
    hooks: Sequence[Hook] = HOOKS
    way: ClientPipeline | None = None
    on_fault: Callable[[PlaitError], None] = lambda _: None

    def __post_init__(self) -> None:
        self.refusal = ""
        settings = self.terms.tasks.plan.settings if self.terms else None
        self._is_noised = bool(settings and settings.is_noised)
        self._counts_stay = bool(settings and settings.counts_stay)
        self._policy = self.terms.policy if self.terms else None

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task; an invalid one is answered by a refusal with a reason code.

        Raises:
            DiskFullError: this machine's disk is full; the driver knows whose machine it is.
        """
        self.refusal = ""
        try:
            job = self._work(task_bytes)
            return job if isinstance(job, bytes) else self._update(job, job.model.train(job))
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            self.refusal = str(error)
            self.on_fault(error)
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
            # Details name counts of records and what is wrong with them. What the server did itself it knows.
            is_of_server = isinstance(error, PeerError) and not isinstance(error, PolicyError)
            is_sent = not self._is_noised and (is_of_server or not self._counts_stay)
            detail = self.refusal if is_sent else "this client's log has the reason"
            return encode_reply(Refusal(self.name, reason, detail))

    @property
    def _way(self) -> ClientPipeline:
        return self.way or ClientPipeline(PlainSender(self.name))

    def _work(self, task_bytes: bytes) -> TrainJob | bytes:
        held = self.settings_text
        task = decode_task(task_bytes, max_bytes=self.max_task_bytes, held=held)
        if not isinstance(task, DescribeTask | TrainTask | EvaluateTask):
            self._counts_stay = False
            return encode_reply(self._way.sender.answer(task))
        if self.terms:
            self.terms.check_task(task)
        self._counts_stay, self._is_noised = task.settings.counts_stay, task.settings.is_noised
        if self._way.is_open and (self._counts_stay or self._is_noised):
            raise PolicyError("clients of this run withhold counts or losses; this one is set up for a run in the open")
        if isinstance(task, DescribeTask):
            return encode_reply(self._describe(task))
        broadcast = read_envelope(task.broadcast, max_bytes=len(task.broadcast))
        header = broadcast.header
        if self.terms:
            self.terms.check_header(header, task)
        spec, state = self._catch_up(broadcast)
        self.memory.save("settings", task.settings.text.encode())
        if self._policy:
            TaskHistory.recall(self.memory).note(self.memory, header, task, self._policy.max_repeats)
        if isinstance(task, TrainTask):
            return self._job(header, spec, state, task.settings)
        if self._is_noised:
            raise PolicyError("evaluation refused: only noised values leave this client")
        settings = task.settings
        reply = self._way.sender.losses(header, settings, lambda: self._evaluate(header, spec, state, settings))
        return encode_reply(reply)

    def _describe(self, task: DescribeTask) -> ClientCard:
        # Without a layout: if this client cannot have it, nothing is built, and the server reads in the card which rank
        # to ask for instead.
        spec = parse_spec(task.spec_json)
        if self._carries(spec):
            spec, _ = self.model.prepare(task.spec_json)
            check_layout(task.layout, spec.layout)
            # The current adapter stays, because a restarted server asks again and continues from it.
            self.memory.save("spec", task.spec_json.encode())
            self.memory.save("settings", task.settings.text.encode())
        size = self.model.data_size(spec, task.settings)
        if self.terms:
            self._check_coverage(spec, self._way.sender.settings(self.terms.tasks.to_train(1, self.name)))
        self._way.agree(size, task.settings)
        # How much data a client has stays with it where counts do.
        counts = DataSize(0, 0, 0, 0, {}) if task.settings.counts_stay else size
        return ClientCard(
            client=self.name,
            base_fingerprint=self.model.base_fingerprint,
            spec_digest=spec.digest,
            max_rank=self.max_rank,
            **{name: value for name, value in vars(counts).items() if name not in ("identity", "groups")},
        )

    def _job(self, header: Header, spec: AdapterSpec, received: AdapterState, settings: Settings) -> TrainJob:
        sender, settings = self._way.sender, self._way.sender.settings(settings)
        size = self.model.data_size(spec, settings)
        self._check_coverage(spec, settings)
        job = TrainJob(
            self.model,
            spec,
            settings,
            received,
            start=received,
            header=header,
            examples=size.train_examples,
            client=self.name,
        )
        return before_training(self._hooks, sender.begin(job), self.memory)

    @property
    def _hooks(self) -> Sequence[Hook]:
        return (ErrorFeedback(), *self.hooks, *self._way.hooks)

    def _update(self, job: TrainJob, trained: Trained) -> bytes:
        try:
            check_finite(trained.state)
        except PeerError as error:
            raise PlaitError(f"training diverged: {error}") from error
        update = self._way.sender.update(job, after_training(self._hooks, job, trained, self.memory))
        reply = encode_reply(update)
        if self._policy:
            self._policy.check_upload(len(reply))
        return reply

    def _carries(self, spec: AdapterSpec) -> bool:
        return not self.max_rank or (spec.rank or 0) <= self.max_rank

    def settings_text(self, digest: bytes) -> str:
        """The text of settings by its digest; empty if not held."""
        text = (self.memory.load("settings") or b"").decode(errors="replace")
        return text if digest_of(text) == digest else ""

    def _catch_up(self, broadcast: Received) -> tuple[AdapterSpec, AdapterState]:
        """The adapter that the server means, from the one held and the broadcast; it is then held."""
        header = broadcast.header
        if header.direction != Direction.BROADCAST:
            raise PeerError("envelope is an update, expected a broadcast")
        if header.base_fingerprint != self.model.base_fingerprint:
            raise BaseMismatchError(
                f"base of the broadcast is {header.base_fingerprint.hex()[:16]}, "
                f"expected {self.model.base_fingerprint.hex()[:16]}"
            )
        spec_json = header.spec_json or (self.memory.load("spec") or b"").decode()
        if not spec_json:
            raise NeedFullError("no adapter spec is held")
        if not self._carries(request := parse_spec(spec_json)):
            raise ConfigError(f"rank of the adapter is {request.rank}, above this client's max-rank of {self.max_rank}")
        spec, initial = self.model.prepare(spec_json)
        if spec.digest != header.spec_digest:
            raise NeedFullError(f"adapter spec is {header.spec_digest.hex()[:16]}, held is {spec.digest.hex()[:16]}")
        opened = unpack(broadcast, layout=spec.layout)
        state = opened.delta
        if header.relative_to:
            state = self._step(header, opened, (self._adapter(spec.layout), initial))
        if state.digest() != header.result_digest:
            raise NeedFullError("the adapter after the broadcast is not the one that the server means")
        self.memory.save("spec", spec_json.encode())
        self.memory.save("adapter", state.flat.tobytes())
        return spec, state

    @staticmethod
    def _step(header: Header, opened: Opened, candidates: Iterable[AdapterState | None]) -> AdapterState:
        for candidate in filter(None, candidates):
            digest = candidate.digest()
            if digest == header.result_digest:
                return candidate
            if digest == header.relative_to:
                return take_step(candidate, opened.delta, opened.encoding.codec)
        raise NeedFullError(f"adapter {header.relative_to.hex()[:16]} is not held here")

    def _adapter(self, layout: Layout) -> AdapterState | None:
        data = self.memory.load("adapter")
        if data is None or len(data) != 4 * layout.size:
            return None
        return AdapterState(layout, np.frombuffer(data, np.float32))

    def _check_coverage(self, spec: AdapterSpec, settings: Settings) -> None:
        if self._policy:
            covered = self.model.coverage(spec, settings)
            self._policy.check_work(steps=covered.steps, tokens=covered.trained_tokens)
            self._policy.check_coverage(examples=covered.examples, tokens=covered.tokens)

    def _evaluate(self, header: Header, spec: AdapterSpec, state: AdapterState, settings: Settings) -> Evaluation:
        kept = recall_state(self.memory, "own", header.run_id).after
        if settings.personal:
            state = with_own(state, kept, geometry_of(spec), Side(settings.personal))
        measured = self.model.evaluate(spec, state, settings)
        before = None
        if settings.judging:
            before = self.model.evaluate(spec, self.model.prepare(spec.text)[1], settings)
        elif header.round:
            first = recall_state(self.memory, "judged", header.run_id).after
            before = SequenceLosses.from_bytes(first.tags.get("losses", "").encode())
        else:
            kept_first = Kept(tags={"losses": measured.to_bytes().decode()})
            self.memory.save("judged", ClientState(header.run_id, after=kept_first).to_bytes())
        result, own = measured.since(before), None
        mine = own_adapter(state, kept, share_measured(settings))
        if mine is not state:
            own = self.model.evaluate(spec, mine, settings).since(before)
        return evaluation_of(self.name, header.round, result, own)


# The first that fits.
_REASONS: tuple[tuple[type[PlaitError], RefusalReason], ...] = (
    (NeedFullError, RefusalReason.NEED_FULL),
    (UnknownSettingsError, RefusalReason.NEED_FULL),
    (BaseMismatchError, RefusalReason.BASE_MISMATCH),
    (TooLittleDataError, RefusalReason.TOO_LITTLE_DATA),
    (DataError, RefusalReason.UNUSABLE_DATA),
    (PartError, RefusalReason.FAILED),
    (ConfigError, RefusalReason.SPEC_MISMATCH),
    (PolicyError, RefusalReason.POLICY),
    (PeerError, RefusalReason.MALFORMED),
    (PlaitError, RefusalReason.FAILED),
)
