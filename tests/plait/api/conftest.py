"""Data of one's own in memory, and a run of two seconds."""

import json
from pathlib import Path

import pytest

from tests import attending
from tests.once import once

SMALL = {**attending.SMALL, "clients": 3}


def rows(count: int = 24) -> list[dict[str, str]]:
    """Three authors whose texts differ in kind and in size."""
    found: list[dict[str, str]] = []
    for number in range(count):
        found.append({"text": f"def add_{number}(left, right):\n    return left + right\n" * 3, "author": "ada"})
        found.append({"text": f"The quick brown fox number {number} jumps over the lazy dog.\n" * 3, "author": "bob"})
        if number % 2:
            found.append({"text": f"x = [{number}, {number + 1}]\nprint(sum(x))\n" * 4, "author": "eve"})
    return found


@pytest.fixture
def small() -> dict[str, object]:
    return dict(SMALL)


@pytest.fixture
def records() -> list[dict[str, str]]:
    return rows()


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the data in memory; not to be changed."""
    import plait

    def make(folder: Path) -> None:
        plait.simulate(rows(), partition="natural:author", out=folder / "run", **SMALL)  # type: ignore[arg-type]

    return once(tmp_path_factory, "api", make) / "run"
