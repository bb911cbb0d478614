import struct

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.wire.codecs import CODECS, codec_for, without_zeros
from plait.wire.codecs.plain import Bf16, Fp32
from plait.wire.codecs.table import Unchanged

FIVE = Layout.of({"a": (5,)})
VALUES = [0.0, -0.0, 1e-45, -3.4028235e38, 0.1]
PAYLOAD = struct.pack("<5f", *VALUES)
TWO = Layout.of({"a": (2,)})
MANY = Layout.of({f"t{i:02}": (5,) for i in range(9)} | {"t03": (4, 0), "t07": (2, 2)})
FP32_PARTIAL, BF16_PARTIAL = CODECS["fp32_partial"], CODECS["bf16_partial"]


def test_fp32_is_little_endian_float32_and_every_bit_comes_back():
    packed = Fp32().encode(AdapterState(FIVE, np.array(VALUES, np.float32)))
    assert (packed.parameters, packed.payload) == (b"", PAYLOAD)
    assert Fp32().decode(b"", PAYLOAD, FIVE).tobytes() == np.array(VALUES, np.float32).tobytes()


def in_bf16(values) -> np.ndarray:
    flat = np.asarray(values, np.float32)
    layout = Layout.of({"a": flat.shape})
    packed = Bf16().encode(AdapterState(layout, flat))
    return Bf16().decode(packed.parameters, packed.payload, layout)


def test_bf16_is_the_upper_half_little_endian():
    packed = Bf16().encode(AdapterState(TWO, np.array([1.0, -2.5], np.float32)))
    assert packed.payload == bytes.fromhex("803f20c0")  # 0x3f80 and 0xc020


def test_every_bfloat16_comes_back_exactly():
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values)]
    assert in_bf16(values).tobytes() == values.tobytes()


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
    assert in_bf16([sign * value]).item() == sign * rounded


def test_zeros_take_no_bytes():
    assert Unchanged().encode(AdapterState.zeros(TWO)).size_bytes == 0
    assert Unchanged().decode(b"", b"", TWO).tobytes() == bytes(8)
    with pytest.raises(ValueError, match="other than zero"):
        Unchanged().encode(AdapterState(TWO, np.array([0, 1e-45], np.float32)))


def delta_with(*names: str) -> AdapterState:
    flat = np.zeros(MANY.size, np.float32)
    for name in names:
        slot = MANY.by_name[name]
        flat[slot.offset : slot.offset + slot.size] = np.arange(1, slot.size + 1)
    return AdapterState(MANY, flat)


@pytest.mark.parametrize("codec", [FP32_PARTIAL, BF16_PARTIAL], ids=lambda codec: codec.name)
@pytest.mark.parametrize("names", [(), ("t00",), ("t02", "t08"), tuple(MANY.by_name)])
def test_every_bit_comes_back_with_a_mask(codec, names):
    delta = delta_with(*names)
    packed = codec.encode(delta)
    assert codec.decode(packed.parameters, packed.payload, MANY).tobytes() == delta.flat.tobytes()


@pytest.mark.parametrize("bits", ["fp32", "bf16"])
def test_zeros_are_left_out_where_that_saves_bytes(bits):
    codec = codec_for(bits)
    assert without_zeros(codec, delta_with()).name == "unchanged"
    assert without_zeros(codec, delta_with("t01")).name == f"{bits}_partial"
    # Only the tensor of no numbers is left out: the mask would cost more.
    assert without_zeros(codec, delta_with(*(set(MANY.by_name) - {"t03"}))) is codec
