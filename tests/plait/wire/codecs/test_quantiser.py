import numpy as np
import pytest

from plait.errors import PeerError
from plait.wire.codecs.quantiser import Quantisers

VALUE = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * 4
QUANTISERS = Quantisers.gaussian(VALUE)


def test_bytes_survive_and_say_where_they_end():
    packed = QUANTISERS.pack()
    assert len(packed) == QUANTISERS.size_bytes
    found, end = Quantisers.unpack(b"xy" + packed + b"more", 2)
    assert (end, found.pack()) == (2 + len(packed), packed)


@pytest.mark.parametrize("size", range(QUANTISERS.size_bytes))
def test_cut_bytes_are_refused(size):
    with pytest.raises(PeerError, match=r"largest index is 0|expected at least"):
        Quantisers.unpack(QUANTISERS.pack()[:size], 0)


def test_points_are_even_and_odd_multiples_moved_towards_zero():
    shifts = np.array([[16, 32, 0], [0, -64, 64]], np.int8)
    quantisers = Quantisers(3, shifts, QUANTISERS.costs)
    assert quantisers.points(0).tolist() == [-6, -3.5, -1.75, 0, 1.75, 3.5, 6]
    assert quantisers.points(1).tolist() == [-4, -4, -1, 0, 1, 4, 4]


def test_fitted_quantisers_have_their_points_at_the_means():
    value = np.array([0.1, 1.75, 2.0, -1.625, 0.75], np.float32)
    index, quantiser = np.array([0, 1, 1, -1, 1], np.int32), np.array([0, 0, 0, 0, 1], np.uint8)
    fitted = Quantisers.fitted(value, index, quantiser, np.array([9, 3, 1, 4, 2]))
    mean = (3 * 1.75 + 1 * 2.0 + 4 * 1.625) / 8
    assert fitted.points(0)[fitted.largest + 1] == pytest.approx(mean, abs=1 / 128)
    assert fitted.points(1)[fitted.largest + 1] == pytest.approx(0.75, abs=1 / 128)


def test_what_occurs_often_costs_little():
    index, quantiser = np.array([0, 1, -2], np.int32), np.zeros(3, np.uint8)
    count = np.array([800, 150, 50])
    fitted = Quantisers.fitted(np.zeros(3, np.float32), index, quantiser, count)
    # Signs are not told apart: ±1 and ±2 share their counts.
    expected = 800 * -np.log2(0.8) + 150 * -np.log2(0.075) + 50 * -np.log2(0.025)
    assert fitted.length_bits(index, quantiser, count) == pytest.approx(expected, rel=0.01)


def test_widening_keeps_what_was_likely_likely():
    wide = QUANTISERS.widened(3 * QUANTISERS.largest)
    assert wide.largest == 3 * QUANTISERS.largest
    np.testing.assert_allclose(wide.bits(0)[wide.largest], QUANTISERS.bits(0)[QUANTISERS.largest], atol=0.2)
    assert QUANTISERS.widened(1) is QUANTISERS
