"""The pipeline of a client: how its updates are sent and charged to the budget of its data.

By default updates are sent in the open and charged to nothing; `plait.composition` exchanges parts of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Protocol

from plait.errors import PolicyError
from plait.rounds.hooks import Hook, Outgoing
from plait.rounds.local_model import DataSize, Trained, TrainJob
from plait.rounds.memory import ClientSecret, ClientStore
from plait.rounds.terms import AgreedTerms
from plait.trust.keys import NodeIdentity
from plait.wire.encoding import Encoding, encode_delta
from plait.wire.envelope import Direction, Header, seal, with_signature
from plait.wire.messages import Evaluation, Reply, UpdateReply
from plait.wire.settings import Settings

if TYPE_CHECKING:
    from plait.rounds.data_journal import DataJournal
    from plait.wire.masked_messages import MaskingTask


_LEAST_AVERAGED = 4
"""Sequences that a reported loss or slope is at least the mean of."""


class UpdateSender(Protocol):
    """How the answers of one client leave it; in the open but for its updates."""

    def settings(self, settings: Settings) -> Settings:
        """The settings that a client trains by, from those of its task."""
        return settings

    def begin(self, job: TrainJob) -> TrainJob:
        """A job before its hooks run; `PeerError` if no update of it could leave now."""
        return job

    def update(self, job: TrainJob, outgoing: Outgoing) -> Reply:
        """The answer to a task of training."""
        ...

    def losses(self, header: Header, settings: Settings, measure: Callable[[], Evaluation]) -> Reply:
        """The answer to a task of evaluation; `PeerError`, and nothing is measured, if losses may not leave now."""
        del header, settings
        return measure()

    def answer(self, task: MaskingTask) -> Reply:
        """The answer to a stage of a masked sum."""
        del task
        raise PolicyError("a masked sum is asked for, but the run configuration has no masks")


@dataclass(frozen=True)
class PlainSender(UpdateSender):
    """The server sees each update and all losses; updates are signed (64 bytes) if there is `sign`."""

    client: str
    sign: Callable[[bytes], bytes] | None = None

    def update(self, job: TrainJob, outgoing: Outgoing) -> UpdateReply:
        """The update as an envelope, signed."""
        header = job.header
        if header is None:
            raise ValueError("the job belongs to no task")
        encoded = outgoing.encoded or encode_delta(outgoing.delta, job.settings.codec)
        outgoing_header = Header(
            direction=Direction.UPDATE,
            run_id=header.run_id,
            round=job.settings.round,
            client=self.client,
            base_fingerprint=header.base_fingerprint,
            spec_digest=header.spec_digest,
            relative_to=header.result_digest,
            examples=job.examples,
            metrics=_metrics(job, outgoing.trained, encoded.encoding) if outgoing.metrics is None else outgoing.metrics,
        )
        update = seal(outgoing_header, encoded).data
        return UpdateReply(with_signature(update, self.sign) if self.sign else update)


def _metrics(job: TrainJob, trained: Trained, encoding: Encoding) -> dict[str, float]:
    report = trained.report
    optional = {name: getattr(report, name) for name in ("learning_rate", "shortened", "reward", "refused_completions")}
    if min(job.settings.step_examples, len(job.settings.part_of(job.examples))) >= _LEAST_AVERAGED:
        optional |= {"first_loss": report.first_loss, "slope": report.slope}
    return {
        "train_loss": report.loss,
        **{name: figure for name, figure in optional.items() if figure is not None},
        "train_tokens": float(report.tokens),
        "train_s": report.seconds,
        "distortion": encoding.distortion or 0.0,
        "codec_s": encoding.codec_s,
    }


@dataclass(frozen=True)
class ClientPipeline:
    """The parts of a client that are exchanged.

    Attributes:
        hooks: nearest to training, so that they see all that it is made of.
        agree: refuses, before anything is trained, what the run would cost this client's data.
        is_open: whether nothing is held back, so that runs in which clients keep something to themselves are refused.
    """

    sender: UpdateSender
    hooks: tuple[Hook, ...] = ()
    agree: Callable[[DataSize, Settings], None] = lambda _size, _settings: None
    is_open: bool = True


@dataclass(frozen=True)
class ClientContext:
    """A client, with everything that the parts of its way need.

    Attributes:
        secret: of the run; if None, one is drawn and kept in `memory` when it is needed.
    """

    name: str
    memory: ClientStore
    _: KW_ONLY
    sign: Callable[[bytes], bytes] | None = None
    terms: AgreedTerms | None = None
    identity: Callable[[], NodeIdentity] | None = None
    journal: DataJournal | None = None  # over all runs; None in a simulation
    secret: Callable[[], ClientSecret] | None = None

    @property
    def own_secret(self) -> ClientSecret:
        """Its secret of the run."""
        return self.secret() if self.secret else ClientSecret.of(self.memory)
