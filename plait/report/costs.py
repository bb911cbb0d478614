"""What a run has sent, beside alternative exchanges, and the tables of it.

Arithmetic over sizes and counts; knows no model and no file. An alternative sends one message each way for every client
in a round, and its bytes are of arrays only.
"""

from dataclasses import dataclass
from statistics import fmean
from typing import Self

from plait.ledger.run_now import Traffic
from plait.ledger.run_view import RunView
from plait.report.table import Table, shown_of, thinned
from plait.report.wording import bytes_text, count_text, duration_text, plural, ratio_text
from plait.system.text import Json

_MOST_ROUNDS = 60
_AT_WORK_AT_THE_END = "Clients still at work when the last round ends receive its adapter if they evaluate it."


@dataclass(frozen=True)
class Alternative:
    """Another way of doing the same rounds; `message_bytes` go up and down once per client and round."""

    name: str
    message_bytes: float

    def sent_bytes(self, client_rounds: int) -> float:
        """Bytes in both directions over all rounds."""
        return 2 * self.message_bytes * client_rounds


@dataclass(frozen=True)
class SentBytes:
    """What a run, or a plan of one, sends in all, and what other ways of doing the same rounds would send."""

    sent: Traffic
    client_rounds: int
    full_model_bytes: int
    trainable_parameters: int

    @classmethod
    def of(cls, view: RunView) -> Self:
        """That of a run so far."""
        return cls(view.sent, view.client_rounds, view.start.full_model_bytes, view.start.adapter.trainable_parameters)

    @property
    def alternatives(self) -> dict[str, Alternative]:
        """What users of LoRA send, most expensive first, and then a whole model in float32; by keys of summaries."""
        size = self.trainable_parameters
        return {
            "fp32_adapter": Alternative("raw adapter, fp32", 4 * size),  # as Flower and NVIDIA FLARE do
            "bf16_adapter": Alternative("raw adapter, bf16", 2 * size),
            "8bit_adapter": Alternative("adapter at 8 bits", size),  # without scales
            "4bit_adapter": Alternative("adapter at 4 bits", size / 2),
            "full_model": Alternative("full model, fp32", self.full_model_bytes),
        }

    @property
    def savings(self) -> dict[str, float | None]:
        """How many times more each alternative sends; None if nothing was sent or no update arrived."""
        return {key: self._saved(each) for key, each in self.alternatives.items()}

    def _saved(self, alternative: Alternative) -> float | None:
        sent_bytes, rounds = self.sent.total_bytes, self.client_rounds
        return alternative.sent_bytes(rounds) / sent_bytes if sent_bytes and rounds else None

    @property
    def figures(self) -> dict[str, Json]:
        """Under the keys of ``summary.json``."""
        up, down, rounds = self.sent.uplink_bytes, self.sent.downlink_bytes, self.client_rounds
        return {
            "trainable_parameters": self.trainable_parameters,
            "full_model_bytes": self.full_model_bytes,
            "uplink_bytes": up,
            "downlink_bytes": down,
            "uplink_bytes_per_client_round": up / rounds if rounds else None,
            "downlink_bytes_per_client_round": down / rounds if rounds else None,
            **{f"savings_vs_{key}": times for key, times in self.savings.items()},
        }

    def table(self, this: str) -> Table:
        """Its bytes beside those of every alternative; `this` names the first row."""
        sent_bytes, rounds = self.sent.total_bytes, self.client_rounds
        rows = tuple(
            (
                each.name,
                bytes_text(each.message_bytes),
                bytes_text(each.sent_bytes(rounds)),
                ratio_text(self._saved(each)),
            )
            for each in (*self.alternatives.values(), Alternative("full model, bf16", self.full_model_bytes / 2))
        )
        per_message = bytes_text(sent_bytes / (2 * rounds)) if rounds else ""
        return Table(
            title="Bytes sent, and what other exchanges would send",
            headings=("exchange", "per message", "in total", "times as much"),
            rows=((this, per_message, bytes_text(sent_bytes), ""), *rows) if sent_bytes and rounds else (),
            note=f"Two messages in each of {plural(rounds, 'client-round')}. "
            f"{this.capitalize()} counts every byte, the others count only arrays.",
        )


def bytes_by_round_table(view: RunView) -> Table:
    """Bytes actually sent in every round, and the bits per parameter of the accepted updates."""
    by_round = dict(sorted(view.sent_by_round.items()))
    shown = thinned(tuple(by_round), _MOST_ROUNDS)

    def row(number: int) -> tuple[str, ...]:
        traffic = by_round[number]
        updates = view.updates_in(number)
        bits = [update.bits_per_parameter for update in updates if update.bits_per_parameter is not None]
        return (
            "set-up" if number == 0 else str(number),
            count_text(len(updates)) if number else "",
            bytes_text(traffic.uplink_bytes),
            bytes_text(traffic.downlink_bytes),
            bytes_text(fmean(update.uplink_bytes for update in updates)) if updates else "",
            f"{fmean(bits):.2f}" if bits else "",
            duration_text(view.rounds[number].wall_s) if number in view.rounds else "",
        )

    def total(traffic: Traffic) -> tuple[str, ...]:
        updates = count_text(view.client_rounds)
        up, down = bytes_text(traffic.uplink_bytes), bytes_text(traffic.downlink_bytes)
        return ("all", updates, up, down, "", "", duration_text(view.wall_s))

    return Table(
        title="Bytes by round",
        headings=("round", "updates", "uplink", "downlink", "per update", "bits per parameter", "time"),
        rows=(*(row(number) for number in shown), total(view.sent)) if by_round else (),
        note=" ".join(
            (
                shown_of(len(shown), len(by_round), "rounds, evenly spaced"),
                _AT_WORK_AT_THE_END if view.is_async else "",
            )
        ).strip(),
    )
