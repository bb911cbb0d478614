"""Runs of two seconds."""

from __future__ import annotations

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
