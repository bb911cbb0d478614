"""Tasks and replies of server and clients, as frozen values and as bytes.

Envelopes pass through as bytes. Writer and reader check the same bounds and raise PeerError. Specified in
proto/README.md.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from plait.adapters import Layout
from plait.errors import ConfigError, PeerError
from plait.system.text import printable
from plait.v1 import messages_pb2 as pb
from plait.wire import bounds, canonical
from plait.wire.envelope import Header, read_header, varint
from plait.wire.settings import SIDES, Settings, digest_of, settings_from

if TYPE_CHECKING:  # a run without masks does not load them
    from plait.wire.masked_messages import MaskedReply, MaskingTask

MAX_TEXT_BYTES = 1 << 24
"""Of a layout's text; those of the largest adapters have a twentieth of it."""


@lru_cache(maxsize=8)
def packed_layout(layout: Layout) -> bytes:
    """The text of a layout as a zlib stream (RFC 1950)."""
    return zlib.compress(layout.text.encode(), 9)


def unpacked_layout(packed: bytes) -> Layout:
    """The inverse of `packed_layout`."""
    return Layout.of_text(bounds.inflated("layout", packed, MAX_TEXT_BYTES).decode("ascii", "replace"))


def check_layout(packed: bytes, own: Layout) -> None:
    """Refuse a layout that is not the one derived here (ConfigError); empty where the server sent none."""
    if packed and (received := unpacked_layout(packed)) != own:
        raise ConfigError(
            f"layout of the adapter has {len(received.slots)} tensors of {received.size} numbers, expected the "
            f"{len(own.slots)} of {own.size} that this client derives from the same specification"
        )


TASK_SCHEMA = 3
"""Version of a Task's format."""

# Tag bytes of messages.proto: field number << 3 | wire type (0 varint, 2 length-delimited).
_SCHEMA = bytes((1 << 3, TASK_SCHEMA))
_TRAIN_TAG, _EVALUATE_TAG = bytes((3 << 3 | 2,)), bytes((4 << 3 | 2,))
_SETTINGS_TAG, _BROADCAST_TAG = bytes((1 << 3 | 2,)), bytes((2 << 3 | 2,))

_SIDES = (pb.SIDE_UNSPECIFIED, pb.SIDE_A, pb.SIDE_B)

# Of a client's card.
_COUNTS = (
    "train_examples", "train_tokens", "held_out_examples", "held_out_tokens", "cut_examples", "left_out_examples",
    "repeated_examples", "judge_examples", "judge_tokens",
)  # fmt: skip
# Optional figures of an evaluation: standard errors, and losses and changes of either sign.
_FIGURES = (
    "own_loss", "loss_error", "change", "change_error", "own_loss_error", "own_change", "own_change_error",
    "reward_margin", "own_reward_margin",
)  # fmt: skip
_SUMS = ("metric_sums", "own_metric_sums")


@dataclass(frozen=True)
class DescribeTask:
    """Report how much data you have, and whether your base can carry this adapter, of a packed layout."""

    settings: Settings
    spec_json: str
    layout: bytes = b""


@dataclass(frozen=True)
class TrainTask:
    """Bring your adapter up to date with `broadcast` (an envelope), train it, and send back the change."""

    settings: Settings
    broadcast: bytes


@dataclass(frozen=True)
class EvaluateTask:
    """Bring your adapter up to date with `broadcast` (an envelope) and measure it on data that you hold out."""

    settings: Settings
    broadcast: bytes


CoreTask: TypeAlias = DescribeTask | TrainTask | EvaluateTask
Task: TypeAlias = "CoreTask | MaskingTask"


@dataclass(frozen=True)
class ClientCard:
    """A client's description of itself, in numbers only: histogram of sources or labels, `max_rank` 0 for any."""

    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    train_examples: int
    train_tokens: int
    held_out_examples: int
    held_out_tokens: int
    histogram: Mapping[str, int]
    max_rank: int = 0
    cut_examples: int = 0
    left_out_examples: int = 0
    repeated_examples: int = 0
    judge_examples: int = 0
    judge_tokens: int = 0

    @property
    def judging(self) -> "ClientCard":
        """The same with the counts of the judge part in the place of the held-out ones."""
        return replace(self, held_out_examples=self.judge_examples, held_out_tokens=self.judge_tokens)


@dataclass(frozen=True)
class UpdateReply:
    """The delta of a training task, as an envelope."""

    update: bytes


@dataclass(frozen=True)
class Evaluation:
    """Quality of the adapter on a client's held-out data; `own_…` of its personalized adapter, None if it has none.

    Losses are means in nats over `tokens` (over `examples` for classification), `change` since before round 1, errors
    standard errors over sequences; `correct` counts labels, or preferences whose chosen reply has the higher reward;
    `metric_sums` is what the run's metrics add up, by place (`plait.rounds.metrics`).
    """

    client: str
    round: int
    loss: float
    tokens: int
    correct: int | None
    examples: int
    own_loss: float | None = None
    own_correct: int | None = None
    loss_error: float | None = None
    change: float | None = None
    change_error: float | None = None
    own_loss_error: float | None = None
    own_change: float | None = None
    own_change_error: float | None = None
    reward_margin: float | None = None
    own_reward_margin: float | None = None
    clusters: int | None = None
    metric_sums: Mapping[int, float] = field(default_factory=dict[int, float])
    own_metric_sums: Mapping[int, float] = field(default_factory=dict[int, float])


class RefusalReason(IntEnum):
    """Why a client did not do a task."""

    NEED_FULL = 1
    BASE_MISMATCH = 2
    SPEC_MISMATCH = 3
    MALFORMED = 4
    TOO_LITTLE_DATA = 5
    FAILED = 6
    BUSY = 7
    POLICY = 8
    UNUSABLE_DATA = 9


@dataclass(frozen=True)
class Refusal:
    """A client's refusal: a code that the server can act on, and a line for its operator, cut at 1,024 characters."""

    client: str
    reason: RefusalReason
    detail: str

    @property
    def code(self) -> str:
        """The reason, as ledgers and metrics have it."""
        return self.reason.name.lower().replace("_", "-")


Reply: TypeAlias = "ClientCard | UpdateReply | Evaluation | Refusal | MaskedReply"


class UnknownSettingsError(PeerError):
    """A task names settings by their digest that its receiver does not hold."""


def encode_task(task: Task, *, whole: bool = True) -> tuple[bytes, bytes]:
    """(head, body) of a task, to be concatenated: the body is its envelope, one object for all tasks that carry it.

    With `whole` the text of its settings is included; without it the receiver has to hold it.
    """
    if isinstance(task, DescribeTask):
        bounds.spec_text(task.spec_json)
        settings = _settings_message(task.settings, whole=whole)
        work = pb.Describe(settings=settings, spec_json=task.spec_json, layout=task.layout)
        return canonical.to_bytes(pb.Task(schema=TASK_SCHEMA, describe=work)), b""
    if not isinstance(task, TrainTask | EvaluateTask):
        return canonical.to_bytes(pb.Task(schema=TASK_SCHEMA, masking=task.message())), b""
    # Canonical protobuf ends with the field of the highest number, which is the broadcast: so it can follow all else
    # without a copy.
    settings = canonical.to_bytes(_settings_message(task.settings, whole=whole))
    inner = b"".join((_SETTINGS_TAG, varint(len(settings)), settings))
    body = task.broadcast
    if body:
        inner += _BROADCAST_TAG + varint(len(body))
    tag = _TRAIN_TAG if isinstance(task, TrainTask) else _EVALUATE_TAG
    return b"".join((_SCHEMA, tag, varint(len(inner) + len(body)), inner)), body


def decode_task(data: bytes, *, max_bytes: int, held: Callable[[bytes], str] = lambda _: "") -> Task:
    """Read a task; `held` gives the text of settings by its digest, empty if not held.

    Raises:
        UnknownSettingsError: it names settings that are not held.
    """
    message = canonical.parse(pb.Task, data, "task", max_bytes=max_bytes)
    canonical.check_schema("task", message.schema, TASK_SCHEMA)
    canonical.check_canonical(message, data, "task")
    match message.WhichOneof("work"):
        case "describe":
            work = message.describe
            return DescribeTask(_read_settings(work.settings, held), bounds.spec_text(work.spec_json), work.layout)
        case "train" | "evaluate" as name:
            kind, work = (TrainTask, message.train) if name == "train" else (EvaluateTask, message.evaluate)
            return kind(_read_settings(work.settings, held), work.broadcast)
        case None:
            raise PeerError("task is empty: it must describe, train, evaluate or mask")
        case _:  # masking
            return _masked().read_task(message.masking)


def broadcast_of(data: bytes, *, max_bytes: int) -> Header | None:
    """The header of a task's broadcast; None if it has none."""
    message = canonical.parse(pb.Task, data, "task", max_bytes=max_bytes)
    work = message.WhichOneof("work")
    if work not in ("train", "evaluate"):
        return None
    broadcast = (message.train if work == "train" else message.evaluate).broadcast
    return read_header(broadcast, max_bytes=len(broadcast))


def _settings_message(settings: Settings, *, whole: bool) -> pb.Settings:
    text = settings.text
    return pb.Settings(
        seed=settings.seed,
        round=settings.round,
        done_steps=settings.done_steps,
        trained=_SIDES[SIDES.index(settings.trained)],
        digest=digest_of(text),
        json=text if whole else "",
        steps=settings.steps,
        judging=settings.judging,
    )


def _read_settings(message: pb.Settings, held: Callable[[bytes], str]) -> Settings:
    digest = bounds.exact_length("digest of the settings", message.digest, bounds.DIGEST_BYTES)
    text = message.json or held(digest)
    if not text:
        raise UnknownSettingsError(f"settings {digest.hex()[:16]} are not held here")
    if digest_of(text) != digest:
        raise PeerError(f"digest of the settings is {digest_of(text).hex()[:16]}, expected {digest.hex()[:16]}")
    trained = SIDES[bounds.integer("trained side", message.trained, maximum=len(SIDES) - 1)]
    of_task = {name: getattr(message, name) for name in ("seed", "round", "done_steps", "steps", "judging")}
    return settings_from(text, {**of_task, "trained": trained})


def encode_reply(reply: Reply) -> bytes:
    """The bytes of a reply."""
    match reply:
        case ClientCard():
            values: dict[str, Any] = dict(vars(_checked_card(reply)))
            values["histogram"] = canonical.entries(pb.HistogramEntry, reply.histogram)
            answer = pb.Reply(card=pb.ClientCard(**values))
        case UpdateReply():
            answer = pb.Reply(update=reply.update)
        case Evaluation():
            values = dict(vars(_checked_evaluation(reply)))
            values |= {name: canonical.entries(pb.MetricSum, values[name]) for name in _SUMS}
            answer = pb.Reply(evaluation=pb.Evaluation(**values))
        case Refusal():
            bounds.name("client name", reply.client)
            reason = f"REFUSAL_REASON_{reply.reason.name}"
            detail = printable(reply.detail, limit=bounds.MAX_DETAIL)
            answer = pb.Reply(refusal=pb.Refusal(client=reply.client, reason=reason, detail=detail))
        case _:
            answer = pb.Reply(masked=reply.message())
    answer.schema = canonical.SCHEMA
    return canonical.to_bytes(answer)


def decode_reply(data: bytes | memoryview, *, max_bytes: int) -> Reply:
    """Read a reply."""
    message = canonical.parse(pb.Reply, data, "reply", max_bytes=max_bytes)
    canonical.check_schema("reply", message.schema)
    canonical.check_canonical(message, data, "reply")
    match message.WhichOneof("answer"):
        case "card":
            values = canonical.values_of(message.card, ClientCard)
            values["histogram"] = canonical.table_of(values["histogram"], "histogram")
            return _checked_card(ClientCard(**values))
        case "update":
            return UpdateReply(message.update)
        case "evaluation":
            values = canonical.values_of(message.evaluation, Evaluation)
            values |= {name: canonical.table_of(values[name], "sums of metrics") for name in _SUMS}
            return _checked_evaluation(Evaluation(**values))
        case "refusal":
            refusal = message.refusal
            return Refusal(
                client=bounds.name("client name", refusal.client),
                reason=bounds.member("reason of the refusal", refusal.reason, RefusalReason),
                detail=bounds.printable("detail of the refusal", refusal.detail, maximum=bounds.MAX_DETAIL),
            )
        case None:
            raise PeerError("reply is empty: it must hold a card, an update, an evaluation or a refusal")
        case _:  # masked
            return _masked().read_reply(message.masked)


def _masked():
    from plait.wire import masked_messages  # most runs have no masks

    return masked_messages


def _checked_card(card: ClientCard) -> ClientCard:
    bounds.name("client name", card.client)
    bounds.exact_length("base fingerprint", card.base_fingerprint, bounds.DIGEST_BYTES)
    bounds.exact_length("digest of the adapter spec", card.spec_digest, bounds.DIGEST_BYTES)
    for name in _COUNTS:
        bounds.integer(name.replace("_", " "), getattr(card, name))
    bounds.entries("histogram", card.histogram, bounds.MAX_HISTOGRAM)
    names_bytes = sum(len(key.encode()) for key in card.histogram)
    bounds.integer("bytes of the names in the histogram", names_bytes, maximum=bounds.MAX_HISTOGRAM_BYTES)
    for key, value in card.histogram.items():
        bounds.integer(f"histogram of {key!r}", value)
    bounds.integer("largest rank", card.max_rank, maximum=bounds.MAX_STEPS)
    return card


def _checked_evaluation(evaluation: Evaluation) -> Evaluation:
    bounds.name("client name", evaluation.client)
    bounds.integer("round", evaluation.round, maximum=bounds.MAX_STEPS)
    bounds.finite("loss", evaluation.loss)
    bounds.integer("tokens", evaluation.tokens)
    bounds.integer("examples", evaluation.examples)
    for name in _FIGURES:
        if (figure := getattr(evaluation, name)) is not None:
            check = bounds.non_negative if name.endswith("error") else bounds.finite
            check(name.replace("_", " "), figure)
    for name, correct in (("correct examples", evaluation.correct), ("own correct examples", evaluation.own_correct)):
        if correct is not None:
            bounds.integer(name, correct, maximum=evaluation.examples)
    for place, value in (*evaluation.metric_sums.items(), *evaluation.own_metric_sums.items()):
        bounds.integer("place of a metric's sum", place, maximum=bounds.MAX_STEPS)
        bounds.non_negative("sum of a metric", value)
    if evaluation.clusters is not None:
        bounds.integer("clusters of held-out examples", evaluation.clusters, minimum=1, maximum=evaluation.examples)
    return evaluation
