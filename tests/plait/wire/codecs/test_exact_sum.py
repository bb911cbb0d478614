import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.adapters import AdapterState, Layout
from plait.aggregation.exact_sum import ExactSum
from plait.errors import PeerError
from plait.wire.codecs import SUM

LAYOUT = Layout.of({"a": (3, 4)})


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_a_sum_comes_out_as_it_went_in(seed, count):
    generator = np.random.default_rng(seed)
    total = ExactSum(LAYOUT.size)
    for _ in range(count):
        values = generator.normal(size=LAYOUT.size) * 10.0 ** generator.uniform(-40, 30)
        total.add(
            (values * (generator.random(LAYOUT.size) < 0.7)).astype(np.float32), float(generator.integers(1, 10**6))
        )
    part = total.part()
    encoded = SUM.encode_sum(part)
    found = SUM.decode_sum(encoded.parameters, encoded.payload, LAYOUT)
    assert (found.total().tobytes(), found.weight) == (part.total().tobytes(), part.weight)
    assert SUM.decode(encoded.parameters, encoded.payload, LAYOUT).tobytes() == part.mean().tobytes()
    # The same sum has the same bytes, however it came about.
    again = ExactSum(LAYOUT.size)
    again.join(found)
    assert SUM.encode_sum(again.part()) == encoded
    assert encoded.size_bytes <= SUM.max_payload_bytes(LAYOUT)


def test_the_whole_range_of_float32_has_room():
    delta = AdapterState(LAYOUT, np.array([1e-45, -3.4e38, 0.0] * 4, np.float32))
    encoded = SUM.encode(delta)
    np.testing.assert_array_equal(SUM.decode(encoded.parameters, encoded.payload, LAYOUT), delta.flat)


@pytest.mark.parametrize(
    ("parameters", "payload", "said"),
    [
        (b"", bytes(12), "0 bytes of parameters"),
        (struct.pack("<hBd", 0, 0, 1.0), b"", "0 for each number"),
        (struct.pack("<hBd", 0, 49, 1.0), bytes(49 * 12), "49 for each number"),
        (struct.pack("<hBd", 0, 1, 1.0), bytes(11), "11 bytes"),
        (struct.pack("<hBd", 0, 1, 0.0), bytes(12), "weight of the sum is 0"),
        (struct.pack("<hBd", 0, 1, -1.0), bytes(12), "weight of the sum is -1"),
        (struct.pack("<hBd", 0, 1, float("nan")), bytes(12), "weight of the sum is nan"),
        (struct.pack("<hBd", 0, 1, float("inf")), bytes(12), "weight of the sum is inf"),
        (struct.pack("<hBd", -65, 1, 1.0), bytes(12), "places -17 to -17"),
        (struct.pack("<hBd", 28, 5, 1.0), bytes(60), "places 7 to 8"),
        (struct.pack("<hBd", 16, 1, 1.0), b"\x01" * 12, "beyond float32"),
    ],
)
def test_what_no_region_wrote_is_refused(parameters, payload, said):
    with pytest.raises(PeerError, match=said):
        SUM.decode(parameters, payload, LAYOUT)
