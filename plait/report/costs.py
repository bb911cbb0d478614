"""What a run has sent, beside alternative exchanges, and the tables of it.

Arithmetic over sizes and counts; knows no model and no file. An alternative sends one message each way for every client
in a round, and its bytes are of arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from plait.ledger.run_now import Traffic
from plait.ledger.run_view import RunView
from plait.report.table import Table, shown_of, thinned
from plait.report.wording import bytes_text, count_text, duration_text, plural, ratio_text

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


def all_alternatives(*, full_model_bytes: int, trainable_parameters: int) -> dict[str, Alternative]:
    """What users of LoRA send, most expensive first, and then a whole model in float32; by keys of summaries."""
    return {
        "fp32_adapter": Alternative("raw adapter, fp32", 4 * trainable_parameters),  # as Flower and NVIDIA FLARE do
        "bf16_adapter": Alternative("raw adapter, bf16", 2 * trainable_parameters),
        "8bit_adapter": Alternative("adapter at 8 bits", trainable_parameters),  # without scales
        "4bit_adapter": Alternative("adapter at 4 bits", trainable_parameters / 2),
        "full_model": Alternative("full model, fp32", full_model_bytes),
    }


def savings(alternative: Alternative, *, client_rounds: int, sent_bytes: int) -> float | None:
    """How many times more the alternative would have sent; None if nothing was sent or no update arrived."""
    return alternative.sent_bytes(client_rounds) / sent_bytes if sent_bytes and client_rounds else None


def alternatives_of(view: RunView) -> dict[str, Alternative]:
    """Those of a run."""
    size = view.start.adapter.trainable_parameters
    return all_alternatives(full_model_bytes=view.start.full_model_bytes, trainable_parameters=size)


def savings_of(view: RunView) -> dict[str, float | None]:
    """The `savings` of a run compared with each."""
    rounds, sent = view.client_rounds, view.sent.total_bytes
    return {key: savings(each, client_rounds=rounds, sent_bytes=sent) for key, each in alternatives_of(view).items()}


def bytes_by_round_table(view: RunView) -> Table:
    """Bytes actually sent in every round, and the bits per parameter of the accepted updates."""
    by_round = view.traffic_by_round
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


def savings_table(view: RunView) -> Table:
    """Bytes of other exchanges for the same rounds."""
    return compare_bytes(
        sent_bytes=view.sent.total_bytes,
        client_rounds=view.client_rounds,
        full_model_bytes=view.start.full_model_bytes,
        trainable_parameters=view.start.adapter.trainable_parameters,
        this="this run",
    )


def compare_bytes(
    *,
    sent_bytes: int,
    client_rounds: int,
    full_model_bytes: int,
    trainable_parameters: int,
    this: str,
) -> Table:
    """`sent_bytes` compared with every alternative over the same client-rounds; `this` names the first row."""
    alternatives = all_alternatives(full_model_bytes=full_model_bytes, trainable_parameters=trainable_parameters)
    rows = tuple(
        (
            alternative.name,
            bytes_text(alternative.message_bytes),
            bytes_text(alternative.sent_bytes(client_rounds)),
            ratio_text(savings(alternative, client_rounds=client_rounds, sent_bytes=sent_bytes)),
        )
        for alternative in (*alternatives.values(), Alternative("full model, bf16", full_model_bytes / 2))
    )
    per_message = bytes_text(sent_bytes / (2 * client_rounds)) if client_rounds else ""
    return Table(
        title="Bytes sent, and what other exchanges would send",
        headings=("exchange", "per message", "in total", "times as much"),
        rows=((this, per_message, bytes_text(sent_bytes), ""), *rows) if sent_bytes and client_rounds else (),
        note=f"Two messages in each of {plural(client_rounds, 'client-round')}. "
        f"{this.capitalize()} counts every byte, the others count only arrays.",
    )
