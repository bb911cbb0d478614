"""How a client is to train and measure: the part of a task that says so, as a frozen value and as a message.

Writer and reader check the same bounds. Specified in proto/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import PeerError
from plait.v1 import messages_pb2 as pb
from plait.wire import bounds

_SCHEDULE_PREFIX = "LEARNING_RATE_SCHEDULE_"
_SCHEDULES = ("constant", "cosine", "linear")
# In the order of messages.proto's Side; what is unspecified means another thing to each.
_TRAINED = ("AB", "A", "B")
_PERSONAL = ("", "A", "B")
_SIDES = (pb.SIDE_UNSPECIFIED, pb.SIDE_A, pb.SIDE_B)


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
        trained: the sides of every low-rank pair that train: ``AB``, ``A`` or ``B``; the other one stays as it is.
        personal: the side that stays at the client and is its own: ``A``, ``B`` or empty.
        proximal: FedProx's mu: half of it times the squared distance to the adapter before is added to the loss.
        carry_moments: whether AdamW's moments are carried over from the client's round before.
        scaffold: whether each step corrects for how the client drifted from the others in the round before.
        without_feedback: whether what the client's encoding drops is let go, since the next round's factors are others.
        own_share: how far the client's own adapter goes from the shared one, 0 (it has none) to less than 1.
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
    trained: str = "AB"
    personal: str = ""
    proximal: float = 0.0
    carry_moments: bool = False
    scaffold: bool = False
    without_feedback: bool = False
    own_share: float = 0.0


def encode_settings(settings: Settings) -> pb.Settings:
    """The message for these settings.

    Raises:
        PeerError: they say something that no receiver would accept.
    """
    _check(settings)
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
        trained=_SIDES[_TRAINED.index(settings.trained)],
        personal=_SIDES[_PERSONAL.index(settings.personal)],
        proximal=settings.proximal,
        carry_moments=settings.carry_moments,
        scaffold=settings.scaffold,
        without_feedback=settings.without_feedback,
        own_share=settings.own_share,
    )


def decode_settings(message: pb.Settings) -> Settings:
    """The settings in a message.

    Raises:
        PeerError: a figure is out of bounds.
    """
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
        trained=_TRAINED[_side("trained side", message.trained)],
        personal=_PERSONAL[_side("personal side", message.personal)],
        proximal=message.proximal,
        carry_moments=message.carry_moments,
        scaffold=message.scaffold,
        without_feedback=message.without_feedback,
        own_share=message.own_share,
    )
    _check(settings)
    return settings


def _schedule_name(number: int) -> str:
    if not 1 <= number <= len(_SCHEDULES):
        raise PeerError(f"learning rate schedule is {number}, expected 1 to {len(_SCHEDULES)}")
    return _SCHEDULES[number - 1]


def _side(what: str, number: int) -> int:
    return bounds.integer(what, number, maximum=len(_SIDES) - 1)


def _check(settings: Settings) -> None:
    for what, value, minimum, maximum in (
        ("local steps", settings.local_steps, 1, bounds.MAX_STEPS),
        ("batch size", settings.batch_size, 1, bounds.MAX_EXAMPLES),
        ("gradient accumulation steps", settings.gradient_accumulation_steps, 1, bounds.MAX_EXAMPLES),
        ("sequence length", settings.seq_len, 1, bounds.MAX_SEQ_LEN),
        ("held-out sequences", settings.max_held_out_sequences, 1, bounds.MAX_STEPS),
        ("warm-up steps", settings.warmup_steps, 0, bounds.MAX_STEPS),
        ("round", settings.round, 0, bounds.MAX_STEPS),
    ):
        bounds.integer(what, value, minimum=minimum, maximum=maximum)
    examples = settings.batch_size * settings.gradient_accumulation_steps
    bounds.integer("sequences of an optimizer step", examples, minimum=1, maximum=bounds.MAX_EXAMPLES)
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
    if settings.trained not in _TRAINED:
        raise PeerError(f"trained side is {settings.trained!r}, expected {', '.join(_TRAINED)}")
    if settings.personal not in _PERSONAL:
        raise PeerError(f"personal side is {settings.personal!r}, expected none, A or B")
    bounds.non_negative("proximal term", settings.proximal)
    if bounds.non_negative("own share", settings.own_share) >= 1:
        raise PeerError(f"own share is {settings.own_share}, expected less than 1")
