"""Withdrawal: the adapter of a federation as if a client had never joined, and a record that says so."""

from __future__ import annotations

from typing import ClassVar

from plait.feature import Feature
from plait.settings.table import Table


class Withdrawal(Table):
    """Who takes no part any more."""

    table: ClassVar[str] = "withdrawal"
    heading: ClassVar[str] = "Withdrawal"

    without_clients: str = ""
    """clients of the data that take no part, separated by commas; `clients` does not count them"""


FEATURE = Feature(
    name="withdrawal",
    help="an adapter as if a client had never joined",
    settings=Withdrawal,
    meets=("attacks",),
    verbs={"withdraw": "plait.features.withdrawal.withdraw_verb:withdraw"},
    events={
        "client_withdrawn": "plait.features.withdrawal.events:ClientWithdrawn",
        "withdrawn": "plait.features.withdrawal.events:Withdrawn",
    },
    sections=("plait.features.withdrawal.section:withdrawal_table",),
    shares="plait.features.withdrawal.shares:without_clients",
)
