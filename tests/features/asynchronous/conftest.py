"""The round loop's federations."""

from tests.plait.rounds.conftest import *  # noqa: F403 (fixtures)
