"""The tiny base, loaded once."""

from tests.plait.training.conftest import *  # noqa: F403 (fixtures)
