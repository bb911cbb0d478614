import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import PeerError
from plait.wire.codecs.entropy import frequencies, join, knots, split


@given(largest=st.integers(0, 300), costs=st.binary(min_size=40, max_size=40))
def test_frequencies_are_whole_shares_of_two_to_the_24(largest, costs):
    found = frequencies(np.frombuffer(costs, np.uint8)[: len(knots(largest))], largest)
    assert found.shape == (2 * largest + 1,)
    assert found.min() >= 1
    assert found.sum() == 2**24


def test_streams_that_their_payload_does_not_hold_are_refused():
    payload = join([np.array([7, 8], np.uint32), np.array([9], np.uint32)])
    assert [stream.tolist() for stream in split(memoryview(b"x" + payload)[1:], 2)] == [
        [7, 8],
        [9],
    ]  # at an odd address
    with pytest.raises(PeerError, match="expected a multiple of 4 and at least 28"):
        split(payload, 8)
    with pytest.raises(PeerError, match="streams end after"):
        split(b"\xff" * 4 + payload, 2)
    with pytest.raises(PeerError, match="trailing zero word"):
        split(payload + bytes(4), 2)
