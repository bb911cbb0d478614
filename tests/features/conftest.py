"""Runs of two seconds."""

from __future__ import annotations

from tests.plait.conftest import *  # isort: skip # noqa: F403 (fixtures)
from tests.plait.cli.conftest import *  # isort: skip # noqa: F403 (those of the same name are meant)
