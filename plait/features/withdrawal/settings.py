"""Who takes no part any more."""

from typing import ClassVar

from plait.settings.table import Table


class Withdrawal(Table):
    """Who takes no part any more."""

    table: ClassVar[str] = "withdrawal"
    heading: ClassVar[str] = "Withdrawal"

    without_clients: str = ""
    """clients of the data that take no part, separated by commas; `clients` does not count them"""
