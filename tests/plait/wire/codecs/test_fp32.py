import struct

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs import Fp32

LAYOUT = Layout.of({"a": (5,)})
VALUES = [0.0, -0.0, 1e-45, -3.4028235e38, 0.1]
PAYLOAD = struct.pack("<5f", *VALUES)


def test_payload_is_little_endian_float32():
    packed = Fp32().encode(AdapterState(LAYOUT, np.array(VALUES, np.float32)))
    assert (packed.parameters, packed.payload) == (b"", PAYLOAD)


def test_every_bit_comes_back():
    assert Fp32().decode(b"", PAYLOAD, LAYOUT).tobytes() == np.array(VALUES, np.float32).tobytes()


def test_decoding_copies_nothing():
    payload = np.frombuffer(PAYLOAD, np.uint8)
    assert np.shares_memory(Fp32().decode(b"", memoryview(payload), LAYOUT), payload)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_payload_that_is_not_finite_is_refused(bad):
    with pytest.raises(PeerError, match="NaN or infinity"):
        Fp32().decode(b"", struct.pack("<5f", 1, 2, bad, 4, 5), LAYOUT)


@pytest.mark.parametrize("payload", [b"", PAYLOAD[:-1], PAYLOAD + b"\0", PAYLOAD * 2])
def test_a_payload_of_another_length_is_refused(payload):
    with pytest.raises(PeerError, match=f"{len(payload)} bytes and 0 of parameters, expected 20 and none"):
        Fp32().decode(b"", payload, LAYOUT)
