"""Packages from outside plait with a feature each, and runs of two seconds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait import feature, known_features

from tests.plait.conftest import *  # isort: skip # noqa: F403 (fixtures)
from tests.plait.cli.conftest import *  # isort: skip # noqa: F403 (those of the same name are meant)

SMALL = {
    "base": "tiny", "rounds": 2, "local_steps": 2, "batch_size": 2, "seq_len": 32, "rank": 2, "learning_rate": 1e-2,
    "dtype": "float32", "quiet": True,
}  # fmt: skip
NAMES = ("ada", "bob", "eve")


def rows() -> list[dict[str, str]]:
    """Three authors whose texts differ."""
    texts = {
        "ada": "def add_{0}(left, right):\n    return left + right\n",
        "bob": "The quick brown fox number {0} jumps over the lazy dog.\n",
        "eve": "x = [{0}, {0} + 1]\nprint(sum(x))\n",
    }
    return [{"text": text.format(number) * 3, "author": name} for number in range(24) for name, text in texts.items()]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_named: None) -> Iterator[Path]:
    """A folder on the path in which the packages are installed, in a process whose operator has named nothing."""
    site = tmp_path / "site"
    shutil.copytree(Path(__file__).parent / "outside", site)
    for name in ("smallest", "witness"):
        info = site / f"plait_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plait-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[plait.features]\n{name} = {name}:FEATURE\n")
    sys.path.append(str(site))
    monkeypatch.setattr(known_features, "_named", [])
    yield site
    feature.of_outsider.cache_clear()
