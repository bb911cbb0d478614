from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _plots() -> None:
    """Plots are rendered."""
