import numpy as np
import pytest

from plait.wire.codecs.quantiser import GREATEST_STEP, LEAST_STEP
from plait.wire.codecs.rate_search import search
from plait.wire.codecs.trellis import Trellis

CHANCE = np.random.default_rng(0)
GROUPS = [CHANCE.standard_normal(4000).astype(np.float32), CHANCE.standard_normal(9000).astype(np.float32) / 3]


@pytest.mark.parametrize("bits", [1, 3])
def test_parameters_count(bits):
    size = sum(group.size for group in GROUPS)
    for overhead_bytes in (0, size // 80):
        path = search(GROUPS, bits, Trellis(3), overhead_bytes=overhead_bytes)
        parameter_bytes = overhead_bytes + sum(len(each.pack()) for each in path.quantisers)
        assert path.bits + 8 * parameter_bytes / size == pytest.approx(bits, rel=0.02)


def test_parameters_leave_half_of_the_target_to_the_numbers():
    path = search([GROUPS[0]], 2, Trellis(3), overhead_bytes=1 << 20)
    assert path.bits == pytest.approx(1, rel=0.1)


def test_scale_changes_nothing_but_the_step():
    one, other = (search([GROUPS[0] * scale], 2, Trellis(3), overhead_bytes=0) for scale in (1, 2.0**40))
    np.testing.assert_array_equal(one.index(), other.index())
    assert other.step == one.step * 2.0**40


@pytest.mark.parametrize("scale", [1e-40, 1e37])
def test_steps_stay_within_their_bounds(scale):
    path = search([(GROUPS[0].astype(np.float64) * scale).astype(np.float32)], 8, Trellis(2), overhead_bytes=0)
    assert LEAST_STEP <= path.step <= GREATEST_STEP
