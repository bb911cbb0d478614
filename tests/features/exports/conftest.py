"""Adapters on the tiny base."""

from tests.plait.exporting.conftest import *  # noqa: F403 (fixtures)
