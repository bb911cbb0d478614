"""How many samples a run shows."""

from typing import Annotated, ClassVar

from pydantic import Field

from plait.settings.table import Table


class Samples(Table):
    """What a simulated run shows of its model at the end."""

    table: ClassVar[str] = "evaluation"
    heading: ClassVar[str] = "Evaluation"

    samples: Annotated[int, Field(ge=0, le=16)] = 2
    """held-out beginnings that base and adapter continue at the end of a simulated run; 0 for none. Ledger and report
    show them; a run with differential privacy or secure aggregation shows none
    """
