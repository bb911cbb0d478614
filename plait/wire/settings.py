"""The settings for training and evaluation of a client: a frozen value, and its JSON text on the wire.

Writer and reader check the bounds of each field; defaults are left out of the text. Specified in proto/README.md.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, TypeAlias, cast, get_args, get_type_hints

from plait.adapters.safetensors import parse_object, shown
from plait.errors import PeerError
from plait.settings.table import MOST_EPOCHS, MOST_OF_GROUP
from plait.settings.tables import Schedule
from plait.system.text import Json
from plait.wire import bounds
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for

CROSS_ENTROPY = "cross_entropy"
"""The loss that no function computes."""
Bound: TypeAlias = Callable[[str, Json], None]
"""Raises PeerError if the value of a setting, called by name, is not permitted."""


def _whole(minimum: int = 0, maximum: int = bounds.MAX_COUNT) -> Bound:
    def check(what: str, value: Json) -> None:
        if type(value) is not int:
            raise PeerError(f"{what} is {shown(value)}, expected a whole number")
        bounds.integer(what, value, minimum=minimum, maximum=maximum)

    return check


def _real(*, above_zero: bool = False, below: float = math.inf) -> Bound:
    def check(what: str, value: Json) -> None:
        if type(value) is not float:
            raise PeerError(f"{what} is {shown(value)}, expected a number")
        (bounds.positive if above_zero else bounds.non_negative)(what, value)
        if value >= below:
            raise PeerError(f"{what} is {value}, expected less than {below:g}")

    return check


def _one_of(*words: str) -> Bound:
    def check(what: str, value: Json) -> None:
        if value not in words:
            raise PeerError(f"{what} is {shown(value)}, expected one of {', '.join(map(repr, words))}")

    return check


def _flag(what: str, value: Json) -> None:
    if type(value) is not bool:
        raise PeerError(f"{what} is {shown(value)}, expected true or false")


def _name(longest: int = bounds.MAX_NAME, least: int = 1) -> Bound:
    def check(what: str, value: Json) -> None:
        if type(value) is not str:
            raise PeerError(f"{what} is {shown(value)}, expected a name")
        bounds.printable(what, value, minimum=least, maximum=longest)

    return check


@dataclass(frozen=True)
class PerTask:
    """Marks a setting that changes from task to task and so is not part of the text."""


SIDES = ("AB", "A", "B")
"""Sides that train, in the order of messages.proto's Side."""

_SomeSteps: TypeAlias = Annotated[int, _whole(1, bounds.MAX_STEPS)]
_Examples: TypeAlias = Annotated[int, _whole(1, bounds.MAX_EXAMPLES)]
_Flag: TypeAlias = Annotated[bool, _flag]


@dataclass(frozen=True)
class Settings:
    """The settings for training and evaluation of a client."""

    local_steps: _SomeSteps
    """Optimizer steps in a round."""
    batch_size: _Examples
    """Sequences in one forward pass."""
    gradient_accumulation_steps: _Examples
    """Forward passes in one optimizer step."""
    seq_len: Annotated[int, _whole(1, bounds.MAX_SEQ_LEN)]
    """Tokens in one sequence."""
    learning_rate: Annotated[float, _real()]
    """The peak learning rate; 0 if every client finds its own in its first step."""
    weight_decay: Annotated[float, _real()]
    """Of AdamW."""
    max_grad_norm: Annotated[float, _real(above_zero=True)]
    """Gradients are clipped to this Euclidean norm."""
    held_out_fraction: Annotated[float, _real(above_zero=True, below=1)]
    """Fraction of the client's data that is held out."""
    max_held_out_sequences: _SomeSteps
    """Maximum number of held-out sequences to evaluate."""
    seed: Annotated[int, _whole(0, 2**64 - 1), PerTask()]
    """All randomness of the task comes from it."""
    lr_schedule: Annotated[str, _one_of(*get_args(Schedule))] = "constant"
    """Schedule of the learning rate."""
    found_rate_factor: Annotated[float, _real(above_zero=True)] = 1.0
    """Multiplies the learning rate that a client's first step found."""
    round: Annotated[int, _whole(0, bounds.MAX_STEPS), PerTask()] = 0
    """The round that the task belongs to."""
    total_steps: Annotated[int, _whole()] = 0
    """Steps of the whole run; 0 if unknown."""
    done_steps: Annotated[int, _whole(), PerTask()] = 0
    """Steps of the run before this task."""
    bits: Annotated[str, _name()] = "fp32"
    """How the client packs its update, in the notation of `--bits`."""
    steps: Annotated[int, _whole(0, bounds.MAX_STEPS), PerTask()] = 0
    """Optimizer steps of the task; 0 for `local_steps` (see `plait.rounds.paces.BySpeed`)."""
    trained: Annotated[str, _one_of(*SIDES), PerTask()] = "AB"
    """The sides of every low-rank pair that train in this round; the other one is frozen."""
    personal: Annotated[str, _one_of("", "A", "B")] = ""
    """The side that stays at the client (personal); empty for none."""
    proximal: Annotated[float, _real()] = 0.0
    """FedProx's mu: mu/2 times the squared distance to the round's initial adapter is added to the loss."""
    loss: Annotated[str, _name()] = CROSS_ENTROPY
    """What the client minimises, in the notation of `--loss`."""
    objective: Annotated[str, _name(longest=bounds.MAX_OBJECTIVE)] = "sft"
    """What the client learns from its data, in the notation of `--objective`."""
    carry_moments: _Flag = False
    """Whether AdamW's moments are carried over from the client's previous round."""
    measures_slope: _Flag = False
    """Whether the client measures the slope of its loss along the adapter's last movement (`Slope`)."""
    without_feedback: _Flag = False
    """Whether the client's encoding error is dropped, because the next round has other factors."""
    personalize: Annotated[float, _real(below=1)] = 0.0
    """Weight of the client's own direction in its personalized adapter; 0 for none."""
    eval_metrics: Annotated[str, _name(longest=bounds.MAX_OBJECTIVE, least=0)] = ""
    """What held-out data are measured by besides the loss, in the notation of `--eval-metrics`."""
    secure_aggregation: _Flag = False
    """Whether updates, losses and counts leave the client under masks only."""
    record_delta: Annotated[float, _real(below=1)] = 0.0
    """Delta of the privacy of each of the client's records; 0 for no such privacy."""
    record_epsilon: Annotated[float, _real()] = 0.0
    """Epsilon of each of its records over the whole run."""
    record_clip: Annotated[float, _real()] = 0.0
    """Norm that the gradient of each record is clipped to; 0 to scale all of them to one norm."""
    group_records: Annotated[int, _whole(0, MOST_OF_GROUP)] = 0
    """Most records of one group in a step, where groups are private; 0 where each record is by itself."""
    client_noise: Annotated[float, _real()] = 0.0
    """Noise over clip norm of a round's sum, of which each client adds its share under masks; 0 for none."""
    client_clip: Annotated[float, _real()] = 0.0
    """Norm that an update is clipped to with such noise; 0 where it follows a quantile and is in the grid."""
    client_cohort: Annotated[int, _whole()] = 0
    """Clients that a round with such noise invites."""
    round_epochs: Annotated[float, _real(below=MOST_EPOCHS + 1)] = 0.0
    """Passes over the client's training part in a round; 0 where steps are counted."""
    lr_schedule_over: Annotated[str, _one_of("run", "round")] = "run"
    """Whether the schedule goes over the run, or over each round."""
    packing: _Flag = True
    """Whether texts are joined and cut into sequences of one length; otherwise each is a sequence."""
    judge_part: Annotated[int, _whole()] = 0
    """Records from which on a client has a judge part, half of what it holds out; 0 for none."""
    judging: Annotated[bool, _flag, PerTask()] = False
    """Whether the task measures the judge part, on which nothing is decided, and there the base too."""

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of the task."""
        return self.steps or self.local_steps

    @property
    def step_examples(self) -> int:
        """Examples of an optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps

    def part_of(self, examples: int) -> range:
        """What the task trains on of so many examples: places in an order of all, then of all again, without end.

        With epochs the rounds of a run have neighbouring parts of one such order; otherwise each has its own.
        """
        if not self.round_epochs:
            return range(self.steps_taken * self.step_examples)
        # Not `round`, which rounds halves to even: two ends that are 1 apart or more must not meet.
        first, last = (math.floor(n * self.round_epochs * examples + 0.5) for n in (self.round - 1, self.round))
        return range(first, last)

    def steps_on(self, examples: int) -> int:
        """Optimizer steps of the task on so many examples, the last of which may be smaller."""
        return -(-len(self.part_of(examples)) // self.step_examples) if self.round_epochs else self.steps_taken

    @property
    def records_are_private(self) -> bool:
        """Whether the client adds noise for each of its records, and sends nothing about them without it."""
        return self.record_delta > 0

    @property
    def adds_share(self) -> bool:
        """Whether the client adds its share of the noise that hides clients, and sends nothing without it."""
        return self.client_noise > 0

    @property
    def is_noised(self) -> bool:
        """Whether all that a client sends about its training has noise of its own."""
        return self.records_are_private or self.adds_share

    @property
    def counts_stay(self) -> bool:
        """Whether a client keeps to itself how much data it has."""
        return self.secure_aggregation or self.records_are_private

    @property
    def codec(self) -> Codec:
        """The codec of the client's update."""
        return codec_for(self.bits)

    @cached_property
    def text(self) -> str:
        """All settings but those that change from task to task, in canonical form: equal settings have equal text."""
        values = {name: value for name, value in _checked(self).items() if name not in _PER_TASK}
        given = {name: value for name, value in values.items() if value != _DEFAULTS.get(name, MISSING)}
        return json.dumps(given, sort_keys=True, separators=(",", ":"))

    def for_task(self, **of_task: Json) -> "Settings":
        """These settings for one task, by the settings that change with it; for thousands the text is made once."""
        for name, value in of_task.items():
            _BOUNDS[name](name.replace("_", " "), value)
        settings = replace(self, **cast("dict[str, Any]", of_task))
        settings.__dict__["text"] = self.text
        return settings


def digest_of(text: str) -> bytes:
    """The name of a settings text: its SHA-256, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def settings_from(text: str, of_task: Mapping[str, Json]) -> Settings:
    """The settings of a text, with those that change from task to task."""
    given = parse_object(text.encode(errors="replace"), what="settings", max_bytes=bounds.MAX_SETTINGS_BYTES)
    for name in given:
        if name not in _BOUNDS or name in _PER_TASK:
            raise PeerError(f"settings hold {shown(name)}, which this version does not know")
    for name in _BOUNDS.keys() - _DEFAULTS.keys() - _PER_TASK - given.keys():
        raise PeerError(f"settings lack '{name}'")
    settings = Settings(**cast("dict[str, Any]", {**given, **of_task}))
    if settings.text != text:
        raise PeerError("settings are not in canonical form: sorted keys, no spaces, no defaults")
    return settings


def _checked(settings: Settings) -> dict[str, Json]:
    """Every setting by name, within its bounds."""
    values = cast("dict[str, Json]", asdict(settings))
    for name, bound in _BOUNDS.items():
        value = values[name]
        if _HINTS[name][0] is float and type(value) is int:
            values[name] = value = float(value)
        bound(name.replace("_", " "), value)
    bounds.integer(
        "sequences of an optimizer step",
        settings.step_examples,
        minimum=1,
        maximum=bounds.MAX_EXAMPLES,
    )
    return values


_HINTS = {name: get_args(hint) for name, hint in get_type_hints(Settings, include_extras=True).items()}
_BOUNDS: Mapping[str, Bound] = {name: hint[1] for name, hint in _HINTS.items()}
_PER_TASK = frozenset(name for name, hint in _HINTS.items() if PerTask() in hint)
_DEFAULTS = {each.name: cast("Json", each.default) for each in fields(Settings) if each.default is not MISSING}
