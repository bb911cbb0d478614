from __future__ import annotations

import numpy as np
import torch

from plait.training.device import Compute
from simulations.bench.same import Check

CPU = Compute(torch.device("cpu"), torch.float32)


def test_a_difference_is_the_largest_between_the_device_and_the_cpu() -> None:
    results = iter([np.array([1.0, 2.0]), np.array([1.5, 2.0])])
    assert Check("numbers", lambda _: next(results)).difference(CPU) == 0.5


def test_results_of_other_shapes_are_as_different_as_can_be() -> None:
    results = iter([np.array([1.0]), np.array([1.0, 1.0])])
    assert Check("numbers", lambda _: next(results)).difference(CPU) == float("inf")
