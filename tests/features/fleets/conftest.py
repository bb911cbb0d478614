"""A federation of a few numbers."""

from tests.plait.rounds.conftest import *  # noqa: F403 (fixtures)
