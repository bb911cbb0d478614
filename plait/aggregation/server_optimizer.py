"""What the server does with the step of a round before applying it.

Most optimizers act on B and A directly, so they depend on how a product is split into factors; `product_optimizer` does
not. Pure: the state goes in and comes out as plain arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState
from plait.aggregation.round import Outcome, RoundContext
from plait.traits import Reasons, Trait

OptimizerState = Mapping[str, NDArray[np.generic]]
Adjusted = tuple[AdapterState, OptimizerState]
"""The step to apply, and the state to keep."""
ON_FACTORS: Reasons = {Trait.SAME_FACTORS: "it acts on each factor separately"}
"""What an optimizer needs that is not in product space."""


class ServerOptimizer(Protocol):
    """A map from the outcome of a rule to the step that is taken: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    needs: ClassVar[Reasons]
    """What a run must have for it (`plait.traits`), besides what every optimizer needs."""

    @property
    def name(self) -> str:
        """What the user gives to ``--server-optimizer``."""
        ...

    @property
    def copies(self) -> int:
        """How many float32 values it carries over for each parameter of the adapter."""
        ...

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """The step to apply, and the state to keep.

        Args:
            memory: as returned in the previous round; empty at first.
        """
        ...


@dataclass(frozen=True)
class Plain:
    """Use the rule's step unchanged."""

    name = "none"
    needs: ClassVar[Reasons] = {}
    copies = 0

    def adjust(self, outcome: Outcome, memory: OptimizerState, context: RoundContext) -> Adjusted:
        """The step unchanged."""
        del context
        return outcome.step, memory


NONE = Plain()
