"""Grids of the server's tests, and data and runs of those of the Python API."""

from tests.plait.api.conftest import *  # isort: skip # noqa: F403 (fixtures)
from tests.server.conftest import *  # isort: skip # noqa: F403 (fixtures)
