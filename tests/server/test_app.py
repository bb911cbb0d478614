from __future__ import annotations

import pytest

from plait.errors import ConfigError
from plait.rounds.local_channel import LocalChannel
from server.app import run_described


def test_a_run_of_flowers_without_a_directory_is_refused_before_it_begins() -> None:
    with pytest.raises(ConfigError, match="run configuration has no out, expected a directory"):
        run_described(LocalChannel(lambda _: None, 0), {"rounds": 1})
