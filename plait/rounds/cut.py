"""What the sequence length cuts off clients' examples, in a sentence or two."""

from __future__ import annotations

from collections.abc import Iterable

from plait.rounds.events import DescribedClient


def cut_sentence(clients: Iterable[DescribedClient], *, seq_len: object) -> str:
    """How many of the clients' examples are cut or left out; empty if none is.

    Args:
        seq_len: tokens of a sequence, as the run's settings have it.
    """
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
