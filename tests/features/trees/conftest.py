"""A federation of a few numbers, and data of one's own in memory."""

from tests.plait.api.conftest import *  # isort: skip # noqa: F403 (fixtures)
from tests.plait.rounds.conftest import *  # isort: skip # noqa: F403
