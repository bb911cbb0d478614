"""A gate before anything leaves: a run's adapter stays in quarantine until conditions of its operator hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from plait.feature import Feature
from plait.settings.table import Table
from plait.traits import Stated


class Gate(Table):
    """What must hold before a run's adapter is released."""

    table: ClassVar[str] = "gate"
    heading: ClassVar[str] = "Release"

    release_if: str = ""
    """conditions for the adapter to leave quarantine, such as "epsilon <= 8 and membership_auc <= 0.6 and exposure <= 3
    and every_client_improves" """

    def stated(self) -> Iterator[Stated]:
        """Nothing of a run is needed but what conditions measure, which `check` looks at."""
        yield from ()


FEATURE = Feature(
    name="gate",
    help="a run's adapter stays in quarantine until conditions hold",
    settings=Gate,
    welcomed=("release_if",),
    verbs={"release": "plait.features.gate.release_verb:release"},
    events={
        "quarantined": "plait.features.gate.events:Quarantined",
        "released": "plait.features.gate.events:Released",
        "released_anyway": "plait.features.gate.events:ReleasedAnyway",
    },
    sections=("plait.features.gate.section:release_table",),
    beside="plait.features.gate.judge:judged_at_the_end",
    check="plait.features.gate.conditions:check",
    holds_back=True,
)
