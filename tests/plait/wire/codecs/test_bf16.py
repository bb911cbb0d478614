import struct

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs.bf16 import Bf16


def round_trip(values) -> np.ndarray:
    flat = np.asarray(values, np.float32)
    layout = Layout.of({"a": flat.shape})
    packed = Bf16().encode(AdapterState(layout, flat))
    return Bf16().decode(packed.parameters, packed.payload, layout)


def test_payload_is_the_upper_half_little_endian():
    packed = Bf16().encode(AdapterState(Layout.of({"a": (2,)}), np.array([1.0, -2.5], np.float32)))
    assert packed.payload == bytes.fromhex("803f20c0")  # 0x3f80 and 0xc020


def test_every_bfloat16_comes_back_exactly():
    halves = np.arange(1 << 16, dtype=np.uint32)
    values = (halves << 16).view(np.float32)
    values = values[np.isfinite(values)]
    assert round_trip(values).tobytes() == values.tobytes()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-8, 1.0),  # tie between 1 and 1 + 2**-7: the even one is below
        (1 + 3 * 2**-8, 1 + 2**-6),  # tie between 1 + 2**-7 and 1 + 2**-6: the even one is above
        (1 + 2**-8 + 2**-23, 1 + 2**-7),
        (1 + 2**-8 - 2**-23, 1.0),
        (2 - 2**-23, 2.0),  # the carry reaches the exponent
        (2.0**-133 * 0.5, 0.0),  # half of the least subnormal
        (2.0**-133 * 0.75, 2.0**-133),
    ],
)
def test_rounds_to_nearest_ties_to_even(sign, value, rounded):
    assert round_trip([sign * value]).item() == sign * rounded


def test_no_other_bfloat16_is_nearer():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    rounded = round_trip(values)
    error = np.abs(values.astype(np.float64) - rounded)
    for step in (-1, 1):
        neighbour = (rounded.view(np.uint32) + np.uint32((step << 16) % 2**32)).view(np.float32)
        assert (error <= np.abs(values.astype(np.float64) - neighbour)).all()


def test_magnitudes_beyond_the_largest_become_the_largest():
    largest = np.float32(2.0**127 * (2 - 2**-7))
    beyond = np.finfo(np.float32).max
    assert round_trip([beyond, -beyond, largest]).tolist() == [largest, -largest, largest]


@pytest.mark.parametrize("half", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_a_payload_that_is_not_finite_is_refused(half):
    with pytest.raises(PeerError, match="NaN or infinity"):
        Bf16().decode(b"", struct.pack("<2H", 0x3F80, half), Layout.of({"a": (2,)}))


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0" * 5, b"\0" * 8])
def test_a_payload_of_another_length_is_refused(payload):
    with pytest.raises(PeerError, match=f"{len(payload)} bytes and 0 of parameters, expected 4 and none"):
        Bf16().decode(b"", payload, Layout.of({"a": (2,)}))
