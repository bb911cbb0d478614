"""Run what is fused both with the compiled kernels and with torch alone."""

from __future__ import annotations

import pytest

from plait.training.fused import kernels
from plait.training.fused.native import native_library


@pytest.fixture(params=["compiled", "torch"])
def computed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_compiled", lambda _symbol: None)
    elif native_library() is None:
        pytest.skip("no C++ compiler here")
    return request.param
