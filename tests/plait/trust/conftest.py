"""A federation's kits, made once, and copies of them for tests to damage."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.trust.kit import ClientKit
from plait.trust.provision import provision


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the time at which kits are loaded."""

    def set_to(moment: datetime) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return moment

        monkeypatch.setattr("plait.trust.kit.datetime", Clock)

    return set_to


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> Path:
    directory = tmp_path_factory.mktemp("federation") / "kits"
    provision(directory, ["alice", "bob"], ["localhost", "127.0.0.1"], now=now)
    return directory


@pytest.fixture
def kits(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "kits"))


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, now: datetime) -> Path:
    """The kits of another federation with the same names; only read."""
    directory = tmp_path_factory.mktemp("foreign") / "kits"
    provision(directory, ["alice", "bob"], ["localhost", "127.0.0.1"], now=now)
    return directory


@pytest.fixture
def alice(kits: Path) -> ClientKit:
    return ClientKit.load(kits / "clients" / "alice")
