"""No option takes NaN, an infinity or a negative number where only a finite one means something."""

from __future__ import annotations

import pytest

from tests.plait.cli.conftest import Plait

OPTIONS = {
    "--max-gb": ("fetch", "first", "none", "--server", "localhost:1"),
    "--grace-s": ("server",),
    "--temperature": ("chat", "first"),
    "--learning-rate": ("simulate",),
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_that_is_none_is_refused_with_its_option(option: str, value: str, plait: Plait) -> None:
    done = plait(*OPTIONS[option], f"{option}={value}")
    assert done.code == 2
    assert option.lstrip("-") in done.err
