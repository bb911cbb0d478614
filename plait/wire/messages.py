"""What server and clients ask and answer: tasks one way, replies the other, as frozen values and as bytes.

Envelopes pass through as bytes; nothing here opens them. Writer and reader check the same bounds. Specified in
proto/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from plait.errors import PeerError
from plait.v1 import messages_pb2 as pb
from plait.wire import bounds, canonical
from plait.wire.codecs import CODECS


@dataclass(frozen=True)
class Settings:
    """How a client is to train and measure.

    Attributes:
        local_steps: optimizer steps in this round.
        batch_size: sequences in one forward pass.
        gradient_accumulation_steps: forward passes in one optimizer step.
        seq_len: tokens in one sequence.
        learning_rate: at its peak.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this Euclidean norm.
        held_out_fraction: part of the client's data that never trains.
        max_held_out_sequences: held-out sequences that are measured at most.
        seed: all randomness of this task comes from it.
        warmup_steps: steps over which the learning rate rises from 0.
        lr_schedule: ``constant``, ``cosine`` or ``linear``, over the whole run.
        round: the round that the task belongs to.
        total_steps: steps of the whole run; 0 if nobody knows.
        done_steps: steps of the run that lie behind this task.
        wire: how the client is to pack its update, as `--wire` says it.
    """

    local_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    seq_len: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    held_out_fraction: float
    max_held_out_sequences: int
    seed: int
    warmup_steps: int = 0
    lr_schedule: str = "constant"
    round: int = 0
    total_steps: int = 0
    done_steps: int = 0
    wire: str = "fp32"


@dataclass(frozen=True)
class DescribeTask:
    """Say how much data you have, and whether your base can carry this adapter."""

    settings: Settings
    spec_json: str


@dataclass(frozen=True)
class TrainTask:
    """Bring your adapter up to date with `broadcast` (an envelope), train it, and send back what changed."""

    settings: Settings
    broadcast: bytes


@dataclass(frozen=True)
class EvaluateTask:
    """Bring your adapter up to date with `broadcast` (an envelope) and measure it on your held-out data."""

    settings: Settings
    broadcast: bytes


Task: TypeAlias = DescribeTask | TrainTask | EvaluateTask


@dataclass(frozen=True)
class ClientCard:
    """What a client says of itself, in numbers only.

    Attributes:
        client: its name.
        base_fingerprint: of the base it holds, 32 bytes.
        spec_digest: of the spec that it derived for that base, 32 bytes.
        train_examples: examples that it may train on.
        train_tokens: tokens in them.
        held_out_examples: examples that never train.
        held_out_tokens: tokens in them.
        histogram: source or label to number of examples.
        wire: names of the codecs that it can decode.
    """

    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: Mapping[str, int]
    wire: tuple[str, ...] = tuple(CODECS)


@dataclass(frozen=True)
class UpdateReply:
    """The delta of a training task, as an envelope."""

    update: bytes


@dataclass(frozen=True)
class Evaluation:
    """How good the adapter is on a client's held-out data.

    Attributes:
        client: its name.
        round: the round that it measured.
        loss: mean over `tokens` (over `examples` for classification), in nats.
        tokens: held-out tokens that count.
        correct: classification only: examples whose label was predicted.
        examples: held-out examples.
    """

    client: str
    round: int
    loss: float
    tokens: int
    correct: int | None
    examples: int


class RefusalReason(IntEnum):
    """Why a client did not do what it was asked."""

    NEED_FULL = 1
    BASE_MISMATCH = 2
    SPEC_MISMATCH = 3
    MALFORMED = 4
    TOO_LITTLE_DATA = 5
    FAILED = 6
    BUSY = 7


@dataclass(frozen=True)
class Refusal:
    """A client's no.

    Attributes:
        client: its name.
        reason: a code that the server can act on.
        detail: for the operator, one line; what is longer than 1,024 characters is cut.
    """

    client: str
    reason: RefusalReason
    detail: str


Reply: TypeAlias = ClientCard | UpdateReply | Evaluation | Refusal


def encode_task(task: Task) -> bytes:
    """The bytes of a task.

    Raises:
        PeerError: it says something that no receiver would accept.
    """
    settings = _encode_settings(task.settings)
    match task:
        case DescribeTask(spec_json=spec_json):
            bounds.spec_text(spec_json)
            work = pb.Task(describe=pb.Describe(settings=settings, spec_json=spec_json))
        case TrainTask(broadcast=broadcast):
            work = pb.Task(train=pb.Train(settings=settings, broadcast=broadcast))
        case EvaluateTask(broadcast=broadcast):
            work = pb.Task(evaluate=pb.Evaluate(settings=settings, broadcast=broadcast))
    work.schema = canonical.SCHEMA
    return canonical.to_bytes(work)


def decode_task(data: bytes, *, max_bytes: int) -> Task:
    """Read a task.

    Raises:
        PeerError: there are more than `max_bytes`, or anything is not as specified.
    """
    message = canonical.parse(pb.Task, data, "task", max_bytes=max_bytes)
    canonical.check_schema("task", message.schema)
    canonical.check_canonical(message, data, "task")
    match message.WhichOneof("work"):
        case "describe":
            spec_json = bounds.spec_text(message.describe.spec_json)
            return DescribeTask(_decode_settings(message.describe.settings), spec_json)
        case "train":
            return TrainTask(_decode_settings(message.train.settings), message.train.broadcast)
        case "evaluate":
            return EvaluateTask(_decode_settings(message.evaluate.settings), message.evaluate.broadcast)
        case _:
            raise PeerError("task asks for nothing, expected describe, train or evaluate")


def encode_reply(reply: Reply) -> bytes:
    """The bytes of a reply.

    Raises:
        PeerError: it says something that no receiver would accept.
    """
    match reply:
        case ClientCard():
            _check_card(reply)
            answer = pb.Reply(
                card=pb.ClientCard(
                    client=reply.client,
                    base_fingerprint=reply.base_fingerprint,
                    spec_digest=reply.spec_digest,
                    train_examples=reply.train_examples,
                    train_tokens=reply.train_tokens,
                    held_out_examples=reply.held_out_examples,
                    held_out_tokens=reply.held_out_tokens,
                    histogram=reply.histogram,
                    wire=reply.wire,
                )
            )
        case UpdateReply():
            answer = pb.Reply(update=reply.update)
        case Evaluation():
            _check_evaluation(reply)
            answer = pb.Reply(
                evaluation=pb.Evaluation(
                    client=reply.client,
                    round=reply.round,
                    loss=reply.loss,
                    tokens=reply.tokens,
                    examples=reply.examples,
                    correct=reply.correct,
                )
            )
        case Refusal():
            bounds.name("client name", reply.client)
            answer = pb.Reply(
                refusal=pb.Refusal(
                    client=reply.client,
                    reason=f"REFUSAL_REASON_{reply.reason.name}",
                    detail=bounds.presentable(reply.detail),
                )
            )
    answer.schema = canonical.SCHEMA
    return canonical.to_bytes(answer)


def decode_reply(data: bytes, *, max_bytes: int) -> Reply:
    """Read a reply.

    Raises:
        PeerError: there are more than `max_bytes`, or anything is not as specified.
    """
    message = canonical.parse(pb.Reply, data, "reply", max_bytes=max_bytes)
    canonical.check_schema("reply", message.schema)
    canonical.check_canonical(message, data, "reply")
    match message.WhichOneof("answer"):
        case "card":
            return _decode_card(message.card)
        case "update":
            return UpdateReply(message.update)
        case "evaluation":
            return _decode_evaluation(message.evaluation)
        case "refusal":
            return _decode_refusal(message.refusal)
        case _:
            raise PeerError("reply holds no answer, expected a card, an update, an evaluation or a refusal")


def _encode_settings(settings: Settings) -> pb.Settings:
    _check_settings(settings)
    return pb.Settings(
        local_steps=settings.local_steps,
        batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        seq_len=settings.seq_len,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        held_out_fraction=settings.held_out_fraction,
        max_held_out_sequences=settings.max_held_out_sequences,
        seed=settings.seed,
        warmup_steps=settings.warmup_steps,
        lr_schedule=f"{_SCHEDULE_PREFIX}{settings.lr_schedule.upper()}",
        round=settings.round,
        total_steps=settings.total_steps,
        done_steps=settings.done_steps,
        wire=settings.wire,
    )


def _decode_settings(message: pb.Settings) -> Settings:
    settings = Settings(
        local_steps=message.local_steps,
        batch_size=message.batch_size,
        gradient_accumulation_steps=message.gradient_accumulation_steps,
        seq_len=message.seq_len,
        learning_rate=message.learning_rate,
        weight_decay=message.weight_decay,
        max_grad_norm=message.max_grad_norm,
        held_out_fraction=message.held_out_fraction,
        max_held_out_sequences=message.max_held_out_sequences,
        seed=message.seed,
        warmup_steps=message.warmup_steps,
        lr_schedule=_schedule_name(message.lr_schedule),
        round=message.round,
        total_steps=message.total_steps,
        done_steps=message.done_steps,
        wire=message.wire,
    )
    _check_settings(settings)
    return settings


_SCHEDULE_PREFIX = "LEARNING_RATE_SCHEDULE_"
_SCHEDULES = ("constant", "cosine", "linear")


def _schedule_name(number: int) -> str:
    if not 1 <= number <= len(_SCHEDULES):
        raise PeerError(f"learning rate schedule is {number}, expected 1 to {len(_SCHEDULES)}")
    return _SCHEDULES[number - 1]


def _check_settings(settings: Settings) -> None:
    for what, value, minimum in (
        ("local steps", settings.local_steps, 1),
        ("batch size", settings.batch_size, 1),
        ("gradient accumulation steps", settings.gradient_accumulation_steps, 1),
        ("sequence length", settings.seq_len, 1),
        ("held-out sequences", settings.max_held_out_sequences, 1),
        ("warm-up steps", settings.warmup_steps, 0),
        ("round", settings.round, 0),
    ):
        bounds.integer(what, value, minimum=minimum, maximum=bounds.MAX_STEPS)
    bounds.integer("total steps", settings.total_steps)
    bounds.integer("done steps", settings.done_steps)
    bounds.integer("seed", settings.seed, maximum=2**64 - 1)
    bounds.positive("learning rate", settings.learning_rate)
    bounds.non_negative("weight decay", settings.weight_decay)
    bounds.positive("largest gradient norm", settings.max_grad_norm)
    if bounds.positive("held-out fraction", settings.held_out_fraction) >= 1:
        raise PeerError(f"held-out fraction is {settings.held_out_fraction}, expected less than 1")
    if settings.lr_schedule not in _SCHEDULES:
        raise PeerError(f"learning rate schedule is {settings.lr_schedule!r}, expected {', '.join(_SCHEDULES)}")
    bounds.name("wire", settings.wire)


def _decode_card(message: pb.ClientCard) -> ClientCard:
    card = ClientCard(
        client=message.client,
        base_fingerprint=message.base_fingerprint,
        spec_digest=message.spec_digest,
        train_examples=message.train_examples,
        train_tokens=message.train_tokens,
        held_out_examples=message.held_out_examples,
        held_out_tokens=message.held_out_tokens,
        histogram=dict(message.histogram),
        wire=tuple(message.wire),
    )
    _check_card(card)
    return card


def _check_card(card: ClientCard) -> None:
    bounds.name("client name", card.client)
    bounds.exact_length("base fingerprint", card.base_fingerprint, bounds.DIGEST_BYTES)
    bounds.exact_length("digest of the adapter spec", card.spec_digest, bounds.DIGEST_BYTES)
    bounds.integer("training examples", card.train_examples)
    bounds.integer("training tokens", card.train_tokens)
    bounds.integer("held-out examples", card.held_out_examples)
    bounds.integer("held-out tokens", card.held_out_tokens)
    bounds.entries("histogram", card.histogram, bounds.MAX_HISTOGRAM)
    for key, value in card.histogram.items():
        bounds.integer(f"histogram of {key!r}", value)
    bounds.integer("number of codecs", len(card.wire), maximum=bounds.MAX_CODECS)
    for codec in card.wire:
        bounds.name("name of a codec", codec)


def _decode_evaluation(message: pb.Evaluation) -> Evaluation:
    evaluation = Evaluation(
        client=message.client,
        round=message.round,
        loss=message.loss,
        tokens=message.tokens,
        correct=message.correct if message.HasField("correct") else None,
        examples=message.examples,
    )
    _check_evaluation(evaluation)
    return evaluation


def _check_evaluation(evaluation: Evaluation) -> None:
    bounds.name("client name", evaluation.client)
    bounds.integer("round", evaluation.round, maximum=bounds.MAX_STEPS)
    bounds.finite("loss", evaluation.loss)
    bounds.integer("tokens", evaluation.tokens)
    bounds.integer("examples", evaluation.examples)
    if evaluation.correct is not None:
        bounds.integer("correct examples", evaluation.correct, maximum=evaluation.examples)


def _decode_refusal(message: pb.Refusal) -> Refusal:
    return Refusal(
        client=bounds.name("client name", message.client),
        reason=bounds.member("reason of the refusal", message.reason, RefusalReason),
        detail=bounds.printable("detail of the refusal", message.detail, maximum=bounds.MAX_DETAIL),
    )
