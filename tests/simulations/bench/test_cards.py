"""The guide's table of machines is what the calculation gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.bench.cards import table

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "which-base-fits.md"


@pytest.mark.slow
def test_the_guide_has_the_table_that_the_command_prints() -> None:
    assert f"\n{table()}\n" in GUIDE.read_text(encoding="utf-8"), "run `plait bench cards`, and put its table there"
