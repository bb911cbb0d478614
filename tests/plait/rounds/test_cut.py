from __future__ import annotations

import pytest

from plait.rounds.events import DescribedClient
from plait.rounds.rates import cut_sentence


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (((0, 0), (0, 0)), ""),
        (((1000, 0), (200, 0)), "1,200 examples are cut after token 128. Raise --seq-len to keep more."),
        (((0, 1), (0, 0)),
         "1 example is left out: the answer starts after token 128. Raise --seq-len to keep more."),
        (((1, 2), (0, 3)),
         ("1 example is cut after token 128. 5 examples are left out: the answer starts after token 128. "
          "Raise --seq-len to keep more.")),
    ],
)  # fmt: skip
def test_all_clients_counts_are_told_in_one_sentence(counts, said) -> None:
    clients = [
        DescribedClient(client=f"c{at}", cut_examples=cut, left_out_examples=left_out)
        for at, (cut, left_out) in enumerate(counts)
    ]
    assert cut_sentence(clients, seq_len=128) == said


def test_a_ledger_without_settings_has_a_sentence_too() -> None:
    assert cut_sentence([DescribedClient(client="a", cut_examples=2)], seq_len=None) == (
        "2 examples are cut after a sequence's last token. Raise --seq-len to keep more."
    )
