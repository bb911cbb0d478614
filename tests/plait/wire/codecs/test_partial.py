import struct

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs import CODECS, codec_for, without_zeros

LAYOUT = Layout.of({f"t{i:02}": (5,) for i in range(9)} | {"t03": (4, 0), "t07": (2, 2)})
FP32, BF16 = CODECS["fp32_partial"], CODECS["bf16_partial"]


def delta_with(*names: str) -> AdapterState:
    flat = np.zeros(LAYOUT.size, np.float32)
    for name in names:
        slot = LAYOUT.by_name[name]
        flat[slot.offset : slot.offset + slot.size] = np.arange(1, slot.size + 1)
    return AdapterState(LAYOUT, flat)


def test_parameters_are_a_mask_lowest_bit_first_and_the_payload_what_it_names():
    packed = FP32.encode(delta_with("t01", "t07", "t08"))
    assert packed.parameters == bytes([0b10000010, 0b1])
    assert packed.payload == struct.pack("<14f", 1, 2, 3, 4, 5, 1, 2, 3, 4, 1, 2, 3, 4, 5)
    assert BF16.encode(delta_with("t07")).payload == bytes.fromhex("803f 0040 4040 8040")


@pytest.mark.parametrize("codec", [FP32, BF16], ids=lambda codec: codec.name)
@pytest.mark.parametrize("names", [(), ("t00",), ("t02", "t08"), tuple(LAYOUT.by_name)])
def test_every_bit_comes_back(codec, names):
    delta = delta_with(*names)
    packed = codec.encode(delta)
    assert codec.decode(packed.parameters, packed.payload, LAYOUT).tobytes() == delta.flat.tobytes()


def test_a_tensor_of_negative_zeros_travels():
    flat = np.zeros(LAYOUT.size, np.float32)
    flat[-1] = -0.0
    packed = FP32.encode(AdapterState(LAYOUT, flat))
    assert FP32.decode(packed.parameters, packed.payload, LAYOUT).tobytes() == flat.tobytes()


@pytest.mark.parametrize(
    ("parameters", "payload", "complaint"),
    [
        (b"", b"", "parameters have 0 bytes, expected 2"),
        (b"\0\0\0", b"", "parameters have 3 bytes, expected 2"),
        (b"\0\2", b"", "name more than the 9 tensors"),
        (b"\1\0", bytes(16), "fp32 payload has 16 bytes .* expected 20"),
        (b"\0\0", bytes(4), "fp32 payload has 4 bytes .* expected 0"),
        (b"\1\0", struct.pack("<5f", 1, 2, float("nan"), 4, 5), "NaN or infinity"),
    ],
)
def test_what_no_encoder_writes_is_refused(parameters, payload, complaint):
    with pytest.raises(PeerError, match=complaint):
        FP32.decode(parameters, payload, LAYOUT)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_zeros_are_left_out_where_that_saves_bytes(wire):
    codec = codec_for(wire)
    assert without_zeros(codec, delta_with()).name == "unchanged"
    assert without_zeros(codec, delta_with("t01")).name == f"{wire}_partial"
    # Only the tensor of no numbers is left out: the mask would cost more.
    assert without_zeros(codec, delta_with(*(set(LAYOUT.by_name) - {"t03"}))) is codec


def test_the_dial_needs_no_mask():
    rate = codec_for("1")
    assert without_zeros(rate, delta_with("t01")) is rate
