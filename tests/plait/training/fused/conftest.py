"""Run what is fused both with the compiled kernels and with torch alone."""

from __future__ import annotations

import pytest

from plait.training.fused import native


def nothing_compiled(_symbol: str, _arguments: tuple[type, ...]) -> None:
    """Stands in for `native.compiled`."""


@pytest.fixture(params=["compiled", "torch"])
def computed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(native, "compiled", nothing_compiled)
    elif native.native_library() is None:
        pytest.skip("no C++ compiler here")
    return request.param
