"""Grids of the server's tests."""

from tests.server.conftest import *  # isort: skip # noqa: F403 (fixtures)
