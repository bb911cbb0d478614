import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import PeerError
from plait.wire.codecs.entropy import frequencies, join, knots, split, streams_of
from plait.wire.codecs.uncompiled import StreamReader, StreamWriter, model_of


@given(largest=st.integers(0, 300), costs=st.binary(min_size=40, max_size=40))
def test_frequencies_are_whole_shares_of_two_to_the_24(largest, costs):
    found = frequencies(np.frombuffer(costs, np.uint8)[: len(knots(largest))], largest)
    assert found.shape == (2 * largest + 1,)
    assert found.min() >= 1
    assert found.sum() == 2**24


SHARES = np.array([2**23, 2**22, 2**22 - 5, 5])
MODELS = model_of(SHARES), model_of(SHARES[::-1].copy())
LANES, ROWS = 900, 30
CHANCE = np.random.default_rng(0)
SECOND = CHANCE.integers(0, 2, (ROWS, LANES)).astype(np.bool_)
SYMBOLS = CHANCE.choice(4, (ROWS, LANES), p=SHARES / 2**24).astype(np.int32)
SYMBOLS[SECOND] = 3 - SYMBOLS[SECOND]
PARTS = ((0, 500), (500, LANES))  # of each row


def written() -> bytes:
    writer = StreamWriter(LANES)
    for row in range(ROWS - 1, -1, -1):
        for start, stop in reversed(PARTS):
            writer.write(start, SYMBOLS[row, start:stop], SECOND[row, start:stop], MODELS)
    return join(writer.finish())


def read(payload: bytes | memoryview, rows: int = ROWS) -> np.ndarray:
    reader = StreamReader(split(payload, streams_of(LANES)), LANES)
    found = [
        np.concatenate([reader.read(start, SECOND[row, start:stop], MODELS) for start, stop in PARTS])
        for row in range(rows)
    ]
    reader.finish()
    return np.stack(found)


def test_symbols_come_back_row_by_row():
    np.testing.assert_array_equal(read(memoryview(b"x" + written())[1:]), SYMBOLS)  # at an odd address


def test_streams_longer_than_the_payload_are_refused():
    with pytest.raises(PeerError, match="expected a multiple of 4 and at least 28"):
        read(written()[:24])
    with pytest.raises(PeerError, match="streams end after"):
        read(b"\xff" * 28 + written()[28:])


def test_a_stream_that_ends_in_zero_is_refused():
    with pytest.raises(PeerError, match="trailing zero word"):
        read(written() + bytes(4))


@pytest.mark.parametrize("how", ["goes on", "is cut", "is changed"])
def test_a_stream_that_ends_elsewhere_is_refused(how):
    payload = bytearray(written())
    if how == "is cut":
        del payload[-4:]
    elif how == "is changed":
        payload[-1] ^= 1
    with pytest.raises(PeerError, match="does not end with its last symbol"):
        read(bytes(payload), rows=ROWS - (how == "goes on"))
