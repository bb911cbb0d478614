from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, AdapterState
from plait.aggregation.geometry import geometry_of
from plait.exporting.source import open_source
from plait.exporting.uniform import uniform


def products(spec: AdapterSpec, state: AdapterState) -> dict[str, NDArray[np.float64]]:
    """scale * B A of every module, dense."""
    return {
        pair.module: pair.scale * pair.b_of(state.flat).astype(np.float64) @ pair.a_of(state.flat).astype(np.float64)
        for pair in geometry_of(spec).pairs
    }


SETTINGS = {"r": 3, "lora_alpha": 5, "use_rslora": True}


def test_padding_keeps_every_product_and_states_the_scale_plainly(by_peft: Callable[..., Path]) -> None:
    source = open_source(by_peft(**SETTINGS))
    before = products(source.spec, source.state)
    fitted = uniform(source, geometry_of(source.spec), rank=8)
    config = fitted.source.spec.peft_config
    assert config["r"] == 8
    assert "use_rslora" not in config
    assert fitted.lost == 0
    for module, product in products(fitted.source.spec, fitted.source.state).items():
        np.testing.assert_allclose(product, before[module], rtol=0, atol=1e-6 * np.abs(before[module]).max())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2])
def test_cutting_takes_the_truncated_svd_of_every_module_and_says_what_is_lost(
    by_peft: Callable[..., Path], rank: int
) -> None:
    source = open_source(by_peft(**SETTINGS))
    before = products(source.spec, source.state)
    fitted = uniform(source, geometry_of(source.spec), rank=rank)
    dropped = total = 0.0
    for module, product in products(fitted.source.spec, fitted.source.state).items():
        u, s, vt = np.linalg.svd(before[module])
        best = u[:, :rank] * s[:rank] @ vt[:rank]
        np.testing.assert_allclose(product, best, rtol=0, atol=1e-5 * s[0])
        dropped, total = dropped + (s[rank:] ** 2).sum(), total + (s**2).sum()
    assert fitted.lost == pytest.approx((dropped / total) ** 0.5, rel=1e-4)


def test_what_is_uniform_already_is_not_touched(by_peft: Callable[..., Path]) -> None:
    source = open_source(by_peft())
    geometry = geometry_of(source.spec)
    assert uniform(source, geometry, rank=4).source is source
