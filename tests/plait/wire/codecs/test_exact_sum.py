import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.adapters import AdapterState, Layout
from plait.adapters.partial_sum import PartialSum
from plait.aggregation.exact_sum import ExactSum
from plait.errors import PeerError
from plait.wire.codecs.exact_sum import SUM

LAYOUT = Layout.of({"a": (3, 4)})


@pytest.mark.slow
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


def test_sums_from_both_ends_of_the_range_have_a_sum_with_room():
    total = ExactSum(LAYOUT.size)
    for exponent, number in ((-26, b"\x01"), (21, b"\x7f")):
        total.join(SUM.decode_sum(struct.pack("<hBd", exponent, 1, 2.0**52), number * 12, LAYOUT))
    encoded = SUM.encode_sum(total.part())
    assert encoded.size_bytes == SUM.max_payload_bytes(LAYOUT)
    assert SUM.decode_sum(encoded.parameters, encoded.payload, LAYOUT).weight == 2.0**53


def test_what_adds_up_to_nothing_has_the_bytes_of_nothing():
    total = ExactSum(LAYOUT.size)
    for value in (1e-40, 1e30, -1e-40, -1e30):
        total.add(np.full(LAYOUT.size, value, np.float32), 1.0)
    assert SUM.encode_sum(total.part()).payload == bytes(12)
    assert SUM.encode_sum(total.part()) == SUM.encode_sum(replace(PartialSum.of(np.zeros(12, np.float32)), weight=4.0))


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
        (struct.pack("<hBd", -65, 1, 1.0), bytes(12), "bytes -65 to -65"),
        (struct.pack("<hBd", -27, 1, 1.0), bytes(12), "bytes -27 to -27"),
        (struct.pack("<hBd", 18, 5, 1.0), bytes(60), "bytes 18 to 22"),
        (struct.pack("<hBd", 16, 1, 1.0), b"\x01" * 12, "beyond float32"),
    ],
)
def test_what_no_region_wrote_is_refused(parameters, payload, said):
    with pytest.raises(PeerError, match=said):
        SUM.decode(parameters, payload, LAYOUT)
