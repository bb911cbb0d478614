"""The float32 step from the master to an adapter that was computed in float64, and the rounded sum of both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, Float32


def step_to(wanted: NDArray[np.float64], master: AdapterState) -> AdapterState:
    """What to add to `master` to get `wanted`, (size,), as near as float32 allows."""
    return AdapterState(master.layout, (wanted - master.flat).astype(np.float32))


def landing(step: AdapterState, master: AdapterState) -> Float32:
    """The flat buffer of the master after `step`, with the rounding of the addition."""
    return master.flat + step.flat
