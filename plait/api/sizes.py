"""What a run sends, stores and pays in privacy, counted before it has begun, in tables and figures. Counts no time."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TypeAlias

from plait.adapters import AdapterSpec
from plait.adapters.methods import is_quantised
from plait.aggregation import Geometry, geometry_of
from plait.aggregation.geometry import BOTH_SIDES, Side
from plait.compress.downlink import at_least
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.ledger.privacy import MECHANISM, WORTH_WARNING, WORTH_WARNING_OF_RECORDS
from plait.ledger.run_now import Traffic
from plait.privacy.client import privacy_of as privacy_of_records
from plait.privacy.mechanism import ClientPrivacy
from plait.privacy.run import privacy_of
from plait.report.costs import SentBytes
from plait.report.table import Table
from plait.report.wording import bytes_text, count_text, plural
from plait.rounds.broadcasts import NEW_FACTORS_BITS
from plait.rounds.run_state import CHECKPOINTS_KEPT, sample_cohort
from plait.rounds.spool import largest_update
from plait.run import links_of, request_of
from plait.settle import ResolvedConfig
from plait.system.text import Json
from plait.training.bases import locate_config
from plait.training.blueprint import Shape, read_base_config, shape_of
from plait.training.memory_plan import Training
from plait.wire.messages import DescribeTask, encode_task, packed_layout

# NF4: four bits, and a scale in eight bits for each 64 values with one in 32 bits for each 256 of these.
_FOUR_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Adapter, AdamW's two moments and the last step (kept where the learning rate follows slopes) in float32, and the
# model's own adapter and its gradient in bfloat16.
_TRAINED_BYTES = 4 * 4 + 2 * 2
# What messages have beside the adapter's numbers, which hardly depends on the run: a client's card, a training task, an
# update (and what it says besides where rates follow slopes), an evaluation and its answer.
_CARD_BYTES, _TRAIN_BYTES, _UPDATE_BYTES, _SLOPE_BYTES, _EVALUATE_BYTES, _LOSSES_BYTES = 94, 255, 347, 37, 245, 57
_SIGNATURE_BYTES = 66
_WHOLE_BITS = 32.0
# A report page with its plots, and the ledger's bytes per client and round.
_REPORT_BYTES, _RECORD_BYTES = 500_000, 1_000


PlannedPrivacy: TypeAlias = tuple[Table, dict[str, Json]]
"""What is known of a run's differential privacy before it begins."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run that has not begun."""

    config: RunConfig
    trainable_parameters: int
    base_parameters: int
    base_bits: float
    base_memory_bytes: int  # of the base at a client, whose parameters take `base_bits` each
    adapter_memory_bytes: int  # of adapter, gradients and optimizer in training; activations are not counted
    sent: Traffic  # bytes of all messages
    server_disk_bytes: int  # of a run directory with every update received
    privacy: PlannedPrivacy | None = None

    @property
    def client_rounds(self) -> int:
        """Updates of the whole run."""
        return self.config.cohort_size * self.config.rounds

    def to_json(self) -> dict[str, Json]:
        """The figures."""
        return {
            "rounds": self.config.rounds,
            "clients": self.config.clients,
            "clients_per_round": self.config.cohort_size,
            "client_base_memory_bytes": self.base_memory_bytes,
            "client_adapter_memory_bytes": self.adapter_memory_bytes,
            "server_disk_bytes": self.server_disk_bytes,
            **self._sent_bytes.figures,
            **(self.privacy[1] if self.privacy else {}),
        }

    @property
    def _sent_bytes(self) -> SentBytes:
        return SentBytes(self.sent, self.client_rounds, 4 * self.base_parameters, self.trainable_parameters)

    def tables(self) -> tuple[Table, ...]:
        """Bytes of the run, bytes of other exchanges, and what privacy costs."""
        directions = (("uplink", self.sent.uplink_bytes), ("downlink", self.sent.downlink_bytes))
        parts = (self.client_rounds, self.config.rounds, 1)
        held = "bfloat16" if self.base_bits == 16 else "four bits"
        cohort = f"{self.config.cohort_size:,} of {plural(self.config.clients, 'client')} in each"
        cost = Table(
            title=f"{plural(self.config.rounds, 'round')}, {cohort}",
            headings=("direction", "per client-round", "per round", "in all"),
            rows=tuple((name, *(bytes_text(total / part) for part in parts)) for name, total in directions),
            note=f"{count_text(self.trainable_parameters)} trainable parameters. A client needs memory for the base in "
            f"{held}, {bytes_text(self.base_memory_bytes)}, and "
            f"{bytes_text(self.adapter_memory_bytes)} to train the adapter, plus activations. The server keeps "
            f"{bytes_text(self.server_disk_bytes)} on disk.",
        )
        return (cost, self._sent_bytes.table("this plan"), *(self.privacy[:1] if self.privacy else ()))


def estimated(settled: ResolvedConfig, *, evaluates: bool, records: int | None) -> Estimate:
    """The costs of a run, whose clients have so many records if that was said."""
    config, training = settled.config, Training.of(settled.plan.settings)
    shape = planned_shape(settled, locate_config(config.base))
    size, largest = shape.spec.layout.size, largest_update(settled.rule, geometry_of(shape.spec))
    base_bits = _FOUR_BITS if is_quantised(shape.spec.method) else 16
    sent = sent_bytes(settled, shape.spec, evaluates=evaluates)
    private = None
    if config.dp == "record":
        private = _of_records(settled, largest, size, records)
    elif privacy := privacy_of(config):
        private = _of_clients(settled, privacy, largest, size)
    return Estimate(
        config=config,
        trainable_parameters=size,
        base_parameters=shape.base_parameters,
        base_bits=base_bits,
        base_memory_bytes=round(shape.base_parameters * base_bits / 8),
        # An example's own factors and their gradient are two bytes each.
        adapter_memory_bytes=(_TRAINED_BYTES + 4 * (training.copies + training.stacked)) * size,
        sent=sent,
        server_disk_bytes=server_disk_bytes(settled, shape.spec, sent),
        privacy=private,
    )


def planned_shape(settled: ResolvedConfig, base_directory: Path) -> Shape:
    """The requested adapter without values, from the base's config alone."""
    config, task = settled.config, settled.task
    base, request = read_base_config(base_directory, task, config.label_names), request_of(settled, config.rank)
    return shape_of(base, request, task=task, labels=config.label_names, seed=config.seed)


def sent_bytes(settled: ResolvedConfig, spec: AdapterSpec, *, evaluates: bool, certified: bool = True) -> Traffic:
    """The bytes of a run's messages.

    Args:
        evaluates: whether clients evaluate the adapter where the plan says so.
        certified: whether clients prove who they are to each other and sign, as over a network; not in a simulation.
    """
    plan, settings = settled.plan, settled.tasks.to_describe()
    update = _UPDATE_BYTES + _SLOPE_BYTES * settings.measures_slope + _SIGNATURE_BYTES * certified
    numbers = _Numbers(settled, geometry_of(spec), certified=certified)
    of_sum, of_losses = numbers.masks()
    names = [f"{number:09d}" for number in range(plan.clients)]
    ranks = dict(zip(names, cycle(settled.config.ranks), strict=False))
    held: dict[str, int | None] = dict.fromkeys(names, 0 if plan.starts_anew else None)
    description = b"".join(encode_task(DescribeTask(settings, spec.text, packed_layout(spec.layout))))
    # Whoever has a lower rank than the highest is asked again, with its own.
    asked = sum(1 + (rank < max(settled.config.ranks)) for rank in ranks.values())
    sent = Traffic(asked * _CARD_BYTES, asked * len(description))

    def down(clients: Collection[str], shadow: int, task: int) -> int:
        kinds = Counter((ranks[name], None if (at := held[name]) is None else shadow - at) for name in clients)
        return sum(
            number * (task + numbers.down(rank, shadow, age) + (age is None) * len(spec.text))
            for (rank, age), number in kinds.items()
        )

    for number in range(plan.rounds + 1):
        if number:
            wanted = plan.folds or plan.cohort_size
            cohort = sample_cohort(names, wanted, seed=plan.seed, round_number=number)
            up = sum(update + numbers.up(ranks[name], number) for name in cohort)
            sent += Traffic(up, down(cohort, number - 1, _TRAIN_BYTES + of_sum.downlink_bytes))
            held |= dict.fromkeys(cohort, number - 1)
        if evaluates and plan.is_evaluated(number):
            clients = plan.evaluators(names)
            up = len(clients) * (_LOSSES_BYTES + of_losses.uplink_bytes)
            sent += Traffic(up, down(clients, number, _EVALUATE_BYTES + of_losses.downlink_bytes))
            held |= dict.fromkeys(clients, number)
    return sent


def server_disk_bytes(settled: ResolvedConfig, spec: AdapterSpec, sent: Traffic) -> int:
    """The disk space of a run directory, with every update received, without the rule's own state."""
    config, plan, bits = settled.config, settled.plan, settled.codec.bits
    bits = max(bits, NEW_FACTORS_BITS) if settled.new_factors else bits
    accepted = plan.watch.guards + plan.watch.take_back  # what is published, and the master to go back to
    adapters = 1 + CHECKPOINTS_KEPT * (1 + accepted + 1 + settled.optimizer.copies + bits / 32)
    records = plan.rounds * (plan.cohort_size + plan.clients * config.evaluates)
    return round(4 * spec.layout.size * adapters) + sent.uplink_bytes + _REPORT_BYTES + _RECORD_BYTES * records


class _Numbers:
    """Bytes of an adapter's numbers in messages: of the sides that the rule lets travel, in their codec."""

    def __init__(self, settled: ResolvedConfig, geometry: Geometry, *, certified: bool) -> None:
        self._settled, self._geometry, self._certified = settled, geometry, certified
        self._rule, self._downlink = settled.rule, settled.plan.downlink
        self._codec = at_least(NEW_FACTORS_BITS, settled.codec) if settled.new_factors else settled.codec
        self.up, self.down = cache(self._up), cache(self._down)

    def _up(self, rank: int, number: int) -> int:
        """Of an update."""
        size = self._size(rank, self._sent_in(number))
        return math.ceil(size * links_of(self._settled, size, evaluates=False, certified=self._certified).up / 8)

    def _down(self, rank: int, number: int, age: int | None) -> int:
        """Of a broadcast that brings a client of this rank and age (`Downlink.sent_bits`) to a round's shadow."""
        bits, is_step = self._downlink.sent_bits(self._codec, number, age), age == 1 or number <= 1
        if bits == _WHOLE_BITS and not is_step:
            sides = BOTH_SIDES - {self._rule.personal}
        elif not self._rule.continuous:
            sides = BOTH_SIDES
        elif self._codec.distortion:  # what a step dropped goes with the next
            sides = self._sent_in(1) | self._sent_in(min(number, 2))
        else:
            sides = self._sent_in(number)
        return math.ceil(self._size(rank, sides) * bits / 8)

    def masks(self) -> tuple[Traffic, Traffic]:
        """What the stages of masked sums take at a client: of an update beside its numbers, and of an evaluation."""
        size = self._geometry.layout.size
        one, two = (links_of(self._settled, size, evaluates=each, certified=self._certified) for each in (False, True))
        beside, up, down = (bits * size / 8 for bits in (one.more_down, two.up - one.up, two.more_down - one.more_down))
        return Traffic(0, round(beside)), Traffic(round(up), round(down))

    def _sent_in(self, number: int) -> frozenset[Side]:
        return self._rule.trained(number) - {self._rule.personal}

    def _size(self, rank: int, sides: Collection[Side]) -> int:
        share = rank / self._settled.config.rank
        return self._geometry.others_size + round(share * sum(map(self._geometry.side_size, sides)))


def _of_clients(settled: ResolvedConfig, privacy: ClientPrivacy, size: int, parameters: int) -> PlannedPrivacy:
    ratio, epsilon = privacy.noise_over_clip(size), privacy.epsilon_after(settled.config.rounds)
    needed = math.ceil(settled.config.cohort_size * ratio / WORTH_WARNING)
    warning = (
        f"Warning: the noise is {ratio:.3g} times the longest mean that a round can have; expect no useful adapter. It "
        f"would be {WORTH_WARNING:g} times with {needed:,} clients per round, or with "
        f"{_fewer(parameters, ratio, WORTH_WARNING)}."
    )
    names = (
        "epsilon of the whole run",
        "delta",
        "noise multiplier of a round",
        "noise in a round's mean, over the clip norm",
    )
    figures = (epsilon, privacy.delta, privacy.noise_multiplier, ratio)
    note = warning if ratio > WORTH_WARNING else ""
    return _planned("clients", names, figures, (("mechanism", MECHANISM),), note)


def _of_records(settled: ResolvedConfig, size: int, parameters: int, records: int | None) -> PlannedPrivacy:
    task, group = settled.plan.settings, settled.config.private_group
    units = f"groups ('{group}')" if group else "records"
    if records is None:
        raise ConfigError(
            f"dp is 'record' and records is not given; give --records N, how many {units} a client trains on: the "
            "noise follows from it"
        )
    each = privacy_of_records(task, records=records)
    ratio, most = each.mechanism.noise_over_clip(size) / math.sqrt(settled.config.cohort_size), WORTH_WARNING_OF_RECORDS
    warning = (
        f"Warning: the noise is {ratio:.3g} times the longest mean gradient that a step can have; expect no useful "
        f"adapter. More {units}, larger batches (up to a tenth of the {units}), or {_fewer(parameters, ratio, most)} "
        "help."
    )
    noises = (
        "noise of a client's step, over the clip norm",
        "noise in a step's mean of all clients, over the clip norm",
    )
    names = (f"epsilon of a client's {units}, whole run", "delta", *noises)
    figures = (each.epsilon_after(task.total_steps), each.delta, each.noise, ratio)
    return _planned(units, names, figures, (), warning if ratio > most else "")


def _planned(
    units: str, names: Sequence[str], figures: Sequence[float], more: tuple[tuple[str, str], ...], note: str
) -> PlannedPrivacy:
    keys = ("dp_epsilon", "dp_delta", "dp_noise_multiplier", "dp_noise_over_clip")
    texts = (format(figure, form) for figure, form in zip(figures, (".4g", "g", ".4g", ".3g"), strict=True))
    rows = (*zip(names, texts, strict=True), *more)
    table = Table(f"Differential privacy of {units}", ("", ""), rows, note, text_columns=(0, 1))
    return table, dict(zip(keys, figures, strict=True))


def _fewer(parameters: int, ratio: float, most: float) -> str:
    # The noise's norm grows with the root of the number of parameters.
    return (
        f"an adapter of {count_text(int(parameters * (most / ratio) ** 2))} parameters (--rule fedsb, --method lora_xs)"
    )
