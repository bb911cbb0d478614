from __future__ import annotations

from dataclasses import replace

import pytest

from simulations.bench.roofline import Gpu, Operation, busy_seconds, step_seconds

GPU = Gpu("round", flops=100.0, bytes_a_second=10.0, launch_s=0.5, peak_flops=200.0)
PRODUCT = Operation("mm", 1, flops=1000.0, moved_bytes=20.0)


def test_an_operation_takes_as_long_as_its_arithmetic_or_its_bytes() -> None:
    assert busy_seconds([PRODUCT], GPU) == 10.0
    assert busy_seconds([replace(PRODUCT, moved_bytes=200.0)], GPU) == 20.0
    assert busy_seconds([replace(PRODUCT, float32=True)], GPU) == 80.0
    assert busy_seconds([replace(PRODUCT, name="_scaled_dot_product_flash_attention")], GPU) == pytest.approx(10 / 0.55)


def test_a_step_waits_for_its_launches_where_they_take_longer() -> None:
    assert step_seconds(10.0, 8, GPU) == 10.0
    assert step_seconds(10.0, 40, GPU) == 20.0
