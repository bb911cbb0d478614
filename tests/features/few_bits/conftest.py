"""The tiny base, loaded once; with compiled kernels and without."""

from tests.plait.training.conftest import *  # isort: skip # noqa: F403 (fixtures)
from tests.plait.training.fused.conftest import *  # isort: skip # noqa: F403 (kernels, and torch alone)
