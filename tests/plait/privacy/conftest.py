"""A federation of a few numbers, and a base of a few parameters."""

from tests.plait.cli.conftest import *  # isort: skip # noqa: F403 (fixtures)
from tests.plait.rounds.conftest import *  # isort: skip # noqa: F403 (those of the same name are meant)
