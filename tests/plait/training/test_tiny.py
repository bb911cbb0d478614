from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plait.adapters import fingerprint_base
from plait.errors import MachineError
from plait.training.bases import unpack_tiny


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path))
    return tmp_path


def test_workers_that_start_at_once_get_one_base_with_the_known_fingerprint(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        (directory,) = set(pool.map(lambda _: unpack_tiny(), range(8)))
    assert list((cache / "bases").iterdir()) == [directory]
    # Runs and adapters of the past name it.
    assert fingerprint_base(directory) == "b1528fbe5e2b7e500c0a7ccf9f8a134c8bd37e45eb96acb9e4a12e8c9d39f158"


def test_a_base_that_others_can_change_is_not_taken(cache: Path) -> None:
    directory = unpack_tiny()
    (directory / "config.json").chmod(0o666)
    with pytest.raises(MachineError, match=r"cannot write .*: Directory not empty; remove what is there"):
        unpack_tiny()
