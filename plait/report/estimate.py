"""What a run is going to send and take, as tables and as figures under the keys of ``summary.json``.

Arithmetic over sizes and counts; knows no model and no file. A finished run loads none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.ledger.run_now import Traffic
from plait.report.costs import SentBytes
from plait.report.table import Table
from plait.report.wording import bytes_text, count_text, plural
from plait.system.text import Json

if TYPE_CHECKING:
    from plait.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A section of the estimate, such as that of differential privacy."""

    tables: tuple[Table, ...]
    figures: Mapping[str, Json]


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
    planned: tuple[Planned, ...] = ()  # further sections

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
            **{name: figure for each in self.planned for name, figure in each.figures.items()},
        }

    @property
    def _sent_bytes(self) -> SentBytes:
        return SentBytes(self.sent, self.client_rounds, 4 * self.base_parameters, self.trainable_parameters)

    def tables(self) -> tuple[Table, ...]:
        """Bytes of the run, bytes of other exchanges, and further sections."""
        directions = (("uplink", self.sent.uplink_bytes), ("downlink", self.sent.downlink_bytes))
        held = "bfloat16" if self.base_bits == 16 else "four bits"
        cohort = f"{self.config.cohort_size:,} of {plural(self.config.clients, 'client')} in each"
        cost = Table(
            title=f"{plural(self.config.rounds, 'round')}, {cohort}",
            headings=("direction", "per client-round", "per round", "in all"),
            rows=tuple(
                (
                    name,
                    bytes_text(total / self.client_rounds),
                    bytes_text(total / self.config.rounds),
                    bytes_text(total),
                )
                for name, total in directions
            ),
            note=f"{count_text(self.trainable_parameters)} trainable parameters. A client needs memory for the base in "
            f"{held}, {bytes_text(self.base_memory_bytes)}, and "
            f"{bytes_text(self.adapter_memory_bytes)} to train the adapter, plus activations. The server keeps "
            f"{bytes_text(self.server_disk_bytes)} on disk.",
        )
        return (cost, self._sent_bytes.table("this plan"), *(table for each in self.planned for table in each.tables))
