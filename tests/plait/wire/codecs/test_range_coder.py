import numpy as np
import pytest

from plait.errors import PeerError
from plait.wire.codecs.range_coder import RangeReader, RangeWriter, model_of

SHARES = np.array([2**23, 2**22, 2**22 - 5, 5])
SYMBOLS = np.random.default_rng(0).choice(4, 10_000, p=SHARES / 2**24).astype(np.int32)


def stream() -> bytes:
    writer = RangeWriter()
    writer.write(SYMBOLS[:3000], model_of(SHARES))
    writer.write(SYMBOLS[3000:], model_of(SHARES[::-1].copy()))
    return writer.finish()


def test_symbols_come_back_row_by_row():
    reader = RangeReader(memoryview(b"x" + stream())[1:])  # at an odd address
    first, rest = reader.read(3000, model_of(SHARES)), reader.read(7000, model_of(SHARES[::-1].copy()))
    reader.finish()
    np.testing.assert_array_equal(np.concatenate([first, rest]), SYMBOLS)


def test_length_is_what_the_frequencies_are_worth():
    bits = -np.log2(SHARES / 2**24)
    ideal = bits[SYMBOLS[:3000]].sum() + bits[::-1][SYMBOLS[3000:]].sum()
    assert ideal <= 8 * len(stream()) <= ideal * 1.001 + 64


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_broken_word_is_refused(cut):
    with pytest.raises(PeerError, match="expected a multiple of 4"):
        RangeReader(stream()[:-cut])


def test_a_stream_that_goes_on_is_refused():
    reader = RangeReader(stream())
    reader.read(3000, model_of(SHARES))
    with pytest.raises(PeerError, match="continues after its last symbol"):
        reader.finish()
