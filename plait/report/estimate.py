"""The cost of a run, estimated in advance: pure arithmetic over sizes, counts and rates.

Knows no model and no file. Counts that a measured run also has use the keys of ``summary.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.errors import ConfigError
from plait.report.alternatives import all_alternatives, savings
from plait.report.table import Table
from plait.report.tables import compare_bytes
from plait.report.wording import bytes_text, count_text, duration_text, plural
from plait.rounds.run_now import Traffic

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along

_BF16_BYTES = 2
_FLOAT32_BYTES = 4
# Adapter, AdamW's two moments and the last step (kept where the learning rate follows slopes) in float32, and the
# model's own adapter and its gradient in bfloat16.
_TRAINED_BYTES = 4 * _FLOAT32_BYTES + 2 * _BF16_BYTES
# A report page with its plots, and the ledger's bytes per client and round.
_REPORT_BYTES = 500_000
_RECORD_BYTES = 1_000


# Information per token of supervised fine-tuning, and capacity per adapter parameter, in bits: Thinking Machines,
# "LoRA Without Regret", 2025; Allen-Zhu and Li, arXiv 2404.05405.
_BITS_PER_TOKEN = 1.0
_BITS_PER_PARAMETER = 2.0
# In simulations/claims rank 4 kept 89 % of rank 64's gain, rank 8 96 %.
_LEAST_RANK = 8
_LARGEST_RANK = 256


def recommended_rank(*, parameters_per_rank: int, train_tokens: int) -> int:
    """The lowest rank, a power of two, with the capacity for this many tokens.

    Args:
        parameters_per_rank: of an adapter of rank 1.
    """
    needed = train_tokens * _BITS_PER_TOKEN / (_BITS_PER_PARAMETER * parameters_per_rank)
    return min(max(_LEAST_RANK, 2 ** math.ceil(math.log2(max(needed, 1.0)))), _LARGEST_RANK)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a feature says of a planned run."""

    tables: tuple[Table, ...]
    figures: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class CostInputs:
    """The inputs of an estimate.

    Attributes:
        clients_per_round: number of them that train in one round.
        base_bits: of each parameter of the base in a client's memory.
        rank: that was asked for; 0 if the method has none.
        catalogue: training tokens per second of kinds of devices, by name: assumed, not measured.
        bits_up: bits per parameter from client to server; 32 is plain float32.
        bits_down: bits per parameter from server to client.
        overhead_bytes: bytes of a message besides parameters, in each direction.
        evaluating_clients: number of clients that evaluate the adapter of every round (0: none). An evaluating client
            is sent the adapter then and not again for training on it.
        bandwidth_up_bps: a client's uplink in bits per second; None omits transfer times.
        bandwidth_down_bps: a client's downlink in bits per second.
        tokens_per_client_round: training tokens per client and round; None omits training.
        train_tokens_per_s: training tokens per second and client.
        parameters_per_rank: of an adapter of rank 1; None if the method has no rank.
        training_copies: float32 values per parameter that training holds beside adapter, gradient and optimizer.
        completions_bytes: keys and values of completions, while a client samples them; None where it samples none, or
            that is not known for the base.
        client_copies: float32 values per parameter that a client keeps on disk in addition to the adapter.
        client_copies_after: the same once the run is over.
        server_copies: the same in the run directory.
        sent: bytes of the whole run, as its plan gives them (`plait.simulation.planned_run`); None for what follows
            from bits and numbers alone.
        planned: what features say of the run.
        virtual_s: time of the run by the clock of a simulated fleet; None without one.
    """

    trainable_parameters: int
    full_model_parameters: int
    clients: int
    clients_per_round: int
    rounds: int
    base_bits: float = 16
    rank: int = 0
    catalogue: tuple[tuple[str, float], ...] = ()
    bits_up: float = 32
    bits_down: float = 32
    overhead_bytes: int = 0
    evaluating_clients: int = 0
    bandwidth_up_bps: float | None = None
    bandwidth_down_bps: float | None = None
    tokens_per_client_round: int | None = None
    train_tokens_per_s: float | None = None
    parameters_per_rank: int | None = None
    training_copies: int = 0
    completions_bytes: int | None = None
    client_copies: float = 0
    client_copies_after: float = 0
    server_copies: float = 0
    sent: Traffic | None = None
    planned: tuple[Planned, ...] = ()
    virtual_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("trainable_parameters", "full_model_parameters", "clients", "clients_per_round", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("bits_up", "bits_down", "bandwidth_up_bps", "bandwidth_down_bps", "train_tokens_per_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}, expected a number above 0")
        for name in ("clients_per_round", "evaluating_clients"):
            if not 0 <= getattr(self, name) <= self.clients:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to clients = {self.clients}")
        if self.overhead_bytes < 0:
            raise ConfigError(f"overhead_bytes is {self.overhead_bytes}, expected at least 0")


@dataclass(frozen=True)
class CostEstimate:
    """The cost for `inputs`."""

    inputs: CostInputs

    @property
    def client_base_memory_bytes(self) -> int:
        """Memory of the base at a client: in four bits where the method holds it so, else in bfloat16."""
        return round(self.inputs.full_model_parameters * self.inputs.base_bits / 8)

    @property
    def client_adapter_memory_bytes(self) -> int:
        """Memory of adapter, gradients and optimizer in training; activations are not counted."""
        return (_TRAINED_BYTES + _FLOAT32_BYTES * self.inputs.training_copies) * self.inputs.trainable_parameters

    @property
    def client_disk_bytes(self) -> int:
        """A client's disk space during the run, without its base."""
        return self._copies(1 + self.inputs.client_copies)

    @property
    def client_disk_bytes_after(self) -> int:
        """A client's disk space once the run is over."""
        return self._copies(1 + self.inputs.client_copies_after)

    @property
    def server_disk_bytes(self) -> int:
        """A server's run directory: until the run is over it holds every update received."""
        return self._run_directory_bytes + self.uplink_bytes

    @property
    def simulation_disk_bytes(self) -> int:
        """A simulation's run directory during the run, with the updates of a round."""
        kept = self.inputs.clients * self._copies(self.inputs.client_copies)
        return self._run_directory_bytes + self.uplink_bytes_per_round + kept

    @property
    def simulation_disk_bytes_after(self) -> int:
        """A simulation's run directory once the run is over."""
        return self._run_directory_bytes + self.inputs.clients * self._copies(self.inputs.client_copies_after)

    @property
    def _run_directory_bytes(self) -> int:
        records = self.client_rounds + self.inputs.rounds * self.inputs.evaluating_clients
        return self._copies(self.inputs.server_copies) + _REPORT_BYTES + _RECORD_BYTES * records

    def _copies(self, count: float) -> int:
        return round(4 * self.inputs.trainable_parameters * count)

    @property
    def client_rounds(self) -> int:
        """Number of rounds that one client trains in."""
        return self.inputs.clients_per_round * self.inputs.rounds

    @property
    def full_model_bytes(self) -> int:
        """The whole model in float32."""
        return 4 * self.inputs.full_model_parameters

    @property
    def uplink_bytes_per_round(self) -> int:
        """One update from every training client, one small answer from every evaluating client."""
        update = _payload_bytes(self.inputs.trainable_parameters, self.inputs.bits_up)
        return self.inputs.clients_per_round * update + self._messages_per_round * self.inputs.overhead_bytes

    @property
    def downlink_bytes_per_round(self) -> int:
        """The new adapter, once to every client that trains or evaluates, and one message per task."""
        adapter = _payload_bytes(self.inputs.trainable_parameters, self.inputs.bits_down)
        receivers = max(self.inputs.clients_per_round, self.inputs.evaluating_clients)
        return receivers * adapter + self._messages_per_round * self.inputs.overhead_bytes

    @property
    def uplink_bytes(self) -> int:
        """Client to server, whole run."""
        sent = self.inputs.sent
        return self.inputs.rounds * self.uplink_bytes_per_round if sent is None else sent.uplink_bytes

    @property
    def downlink_bytes(self) -> int:
        """Server to client, whole run."""
        sent = self.inputs.sent
        return self.inputs.rounds * self.downlink_bytes_per_round if sent is None else sent.downlink_bytes

    @property
    def sent_bytes(self) -> int:
        """Both directions, whole run."""
        return self.uplink_bytes + self.downlink_bytes

    @property
    def uplink_s_per_client_round(self) -> float | None:
        """Seconds that a client sends per round, at its bandwidth."""
        speed = self.inputs.bandwidth_up_bps
        return 8 * self.uplink_bytes / self.client_rounds / speed if speed else None

    @property
    def downlink_s_per_client_round(self) -> float | None:
        """Seconds that a client receives per round, at its bandwidth."""
        speed = self.inputs.bandwidth_down_bps
        return 8 * self.downlink_bytes / self.client_rounds / speed if speed else None

    @property
    def train_s_per_client_round(self) -> float | None:
        """Seconds that a client trains per round."""
        tokens, speed = self.inputs.tokens_per_client_round, self.inputs.train_tokens_per_s
        return tokens / speed if tokens is not None and speed else None

    @property
    def train_tokens(self) -> int | None:
        """Tokens that all clients train on, whole run."""
        each = self.inputs.tokens_per_client_round
        return None if each is None else each * self.client_rounds

    @property
    def recommended_rank(self) -> int | None:
        """The lowest rank with the capacity for the run's tokens; None if unknown."""
        if self.train_tokens is None or not self.inputs.parameters_per_rank:
            return None
        return recommended_rank(parameters_per_rank=self.inputs.parameters_per_rank, train_tokens=self.train_tokens)

    @property
    def _messages_per_round(self) -> int:
        return self.inputs.clients_per_round + self.inputs.evaluating_clients

    def to_json(self) -> dict[str, Json]:
        """The estimate, under the keys of ``summary.json`` where they mean the same."""
        inputs = self.inputs
        return {
            "rounds": inputs.rounds,
            "clients": inputs.clients,
            "clients_per_round": inputs.clients_per_round,
            "trainable_parameters": inputs.trainable_parameters,
            "full_model_bytes": self.full_model_bytes,
            "client_base_memory_bytes": self.client_base_memory_bytes,
            "client_adapter_memory_bytes": self.client_adapter_memory_bytes,
            "client_completions_memory_bytes": inputs.completions_bytes,
            "client_disk_bytes": self.client_disk_bytes,
            "client_disk_bytes_after": self.client_disk_bytes_after,
            "server_disk_bytes": self.server_disk_bytes,
            "simulation_disk_bytes": self.simulation_disk_bytes,
            "simulation_disk_bytes_after": self.simulation_disk_bytes_after,
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "uplink_bytes_per_round": self.uplink_bytes / inputs.rounds,
            "downlink_bytes_per_round": self.downlink_bytes / inputs.rounds,
            "uplink_bytes_per_client_round": self.uplink_bytes / self.client_rounds,
            "downlink_bytes_per_client_round": self.downlink_bytes / self.client_rounds,
            **{
                f"savings_vs_{key}": savings(each, client_rounds=self.client_rounds, sent_bytes=self.sent_bytes)
                for key, each in all_alternatives(
                    full_model_bytes=self.full_model_bytes, trainable_parameters=inputs.trainable_parameters
                ).items()
            },
            "uplink_s_per_client_round": self.uplink_s_per_client_round,
            "downlink_s_per_client_round": self.downlink_s_per_client_round,
            "train_s_per_client_round": self.train_s_per_client_round,
            "virtual_s": inputs.virtual_s,
            "train_tokens": self.train_tokens,
            "recommended_rank": self.recommended_rank,
            **{name: figure for each in inputs.planned for name, figure in each.figures.items()},
        }


def estimate_tables(estimate: CostEstimate) -> tuple[Table, ...]:
    """Bytes and times of the run, and bytes of other exchanges."""
    inputs, client_rounds = estimate.inputs, estimate.client_rounds
    directions = (
        ("uplink", inputs.bits_up, estimate.uplink_bytes, estimate.uplink_s_per_client_round),
        ("downlink", inputs.bits_down, estimate.downlink_bytes, estimate.downlink_s_per_client_round),
    )
    cohort = f"{inputs.clients_per_round:,} of {plural(inputs.clients, 'client')} in each"
    cost = Table(
        title=f"{plural(inputs.rounds, 'round')}, {cohort}",
        headings=(
            "direction",
            "bits per parameter",
            "per client-round",
            "per round",
            "in all",
            "time per client-round",
        ),
        rows=tuple(
            (
                name,
                f"{bits:g}",
                bytes_text(total / client_rounds),
                bytes_text(total / inputs.rounds),
                bytes_text(total),
                duration_text(seconds),
            )
            for name, bits, total, seconds in directions
        ),
        note=_training_note(estimate),
    )
    comparison = compare_bytes(
        sent_bytes=estimate.sent_bytes,
        client_rounds=client_rounds,
        full_model_bytes=estimate.full_model_bytes,
        trainable_parameters=inputs.trainable_parameters,
        this="this plan",
    )
    return (cost, comparison, *_times_table(estimate), *(table for each in inputs.planned for table in each.tables))


def _training_note(estimate: CostEstimate) -> str:
    sampled = estimate.inputs.completions_bytes
    beside = "plus activations"
    if sampled is not None:
        beside += f", or up to {bytes_text(sampled)} of keys and values while it samples completions"
    held = "bfloat16" if estimate.inputs.base_bits == 16 else "four bits"
    parameters = (
        f"{count_text(estimate.inputs.trainable_parameters)} trainable parameters. A client needs memory for the base "
        f"in {held}, {bytes_text(estimate.client_base_memory_bytes)}, and "
        f"{bytes_text(estimate.client_adapter_memory_bytes)} to train the adapter, {beside}. On disk a "
        f"client keeps {bytes_text(estimate.client_disk_bytes)} in addition to the base, "
        f"{bytes_text(estimate.client_disk_bytes_after)} once the run is over, and the server "
        f"{bytes_text(estimate.server_disk_bytes)}; a simulation takes {bytes_text(estimate.simulation_disk_bytes)}, "
        f"{bytes_text(estimate.simulation_disk_bytes_after)} once it is over."
    )
    tokens = estimate.inputs.tokens_per_client_round
    if tokens is None:
        return parameters
    seconds = estimate.train_s_per_client_round
    taking = f", {duration_text(seconds)} of training" if seconds is not None else ""
    rank = estimate.recommended_rank
    enough = "" if rank is None else _capacity(estimate.inputs.rank, rank, count_text(estimate.train_tokens))
    fleet = estimate.inputs.virtual_s
    clock = "" if fleet is None else f" With these devices the run takes {duration_text(fleet)} of virtual time."
    return f"{parameters} A client trains on {count_text(tokens)} tokens per round{taking}.{enough}{clock}"


def _capacity(asked: int, needed: int, tokens: str) -> str:
    """What the rank that was asked for can hold; 0 where none was."""
    if asked and needed > asked:
        return f" Rank {asked} lacks the capacity for {tokens} tokens in total; rank {needed} has it."
    return f" Rank {asked or needed} has the capacity for {tokens} tokens in total."


def _times_table(estimate: CostEstimate) -> tuple[Table, ...]:
    """How long a client trains in a round on devices of the catalogue."""
    tokens = estimate.inputs.tokens_per_client_round
    if tokens is None or not estimate.inputs.catalogue:
        return ()
    return (
        Table(
            title="Training of a client in a round",
            headings=("device", "tokens per second", "time"),
            rows=tuple(
                (name, f"{speed:,.0f}", duration_text(tokens / speed)) for name, speed in estimate.inputs.catalogue
            ),
            note="Speeds follow from peaks that makers state and an assumed utilisation; nothing was measured.",
        ),
    )


def _payload_bytes(parameters: int, bits: float) -> int:
    return math.ceil(parameters * bits / 8)
