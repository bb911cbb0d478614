"""Settings of a release."""

from typing import ClassVar

from plait.settings.table import Table


class Gate(Table):
    """What must hold before a run's adapter is released."""

    table: ClassVar[str] = "gate"
    heading: ClassVar[str] = "Release"

    release_if: str = ""
    """conditions for the adapter to leave quarantine, such as "epsilon <= 8 and membership_auc <= 0.6 and exposure <= 3
    and every_client_improves" """
