"""What updates and descriptions say of a run's settings, in a sentence: learning rates, and examples cut off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean, median

from pydantic import JsonValue

from plait.ledger.events import DescribedClient, UpdateReceived

# Fraction of shortened steps above which a learning rate is called too high.
_MOST_SHORTENED = 0.5


def given_rate(config: Mapping[str, JsonValue]) -> float | None:
    """The learning rate that a run gives its clients; 0 if each has its own, None if the run does not say.

    One that follows slopes is each client's own wherever it begins: with LoRA-XS at a rate that follows from the rank.
    """
    rate = config.get("learning-rate")
    if not isinstance(rate, (int, float)):
        return None
    return 0.0 if config.get("lr-schedule") == "slope" else float(rate)


def rates_sentence(updates: Iterable[UpdateReceived], *, given: float) -> str:
    """What the learning rates were, if clients found them, or that the one given is too high; empty otherwise."""
    updates = tuple(updates)
    rates = [update.learning_rate for update in updates if update.learning_rate is not None]
    if not given:
        if not rates:
            return ""
        least, most = f"{min(rates):.2g}", f"{max(rates):.2g}"
        spread = "" if least == most else f" ({least} to {most})"
        return f"Learning rate found by each client: {median(rates):.2g}{spread}."
    shortened = [update.shortened for update in updates if update.shortened is not None]
    if not shortened or fmean(shortened) <= _MOST_SHORTENED:
        return ""
    return (
        f"A learning rate of {given:g} is too high: {fmean(shortened):.0%} of the local steps predicted a fall of the "
        "loss by more than a quarter, and were shortened. Give a lower --learning-rate, or none: then plait takes the "
        "method's, or each client finds its own."
    )


def cut_sentence(clients: Iterable[DescribedClient], *, seq_len: object) -> str:
    """How many of the clients' examples are cut or left out; empty if none is."""
    described = tuple(clients)
    cut, left_out = sum(each.cut_examples for each in described), sum(each.left_out_examples for each in described)
    tokens = f"token {seq_len:,}" if isinstance(seq_len, int) else "a sequence's last token"
    told: list[str] = []
    if cut:
        told.append(f"{_examples(cut)} cut after {tokens}.")
    if left_out:
        told.append(f"{_examples(left_out)} left out: the answer starts after {tokens}.")
    return " ".join((*told, "Raise --seq-len to keep more.")) if told else ""


def _examples(count: int) -> str:
    return f"{count:,} example{' is' if count == 1 else 's are'}"
