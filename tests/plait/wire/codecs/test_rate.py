import runpy
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs import Rate
from plait.wire.codecs.entropy import frequencies, join, knots
from plait.wire.codecs.uncompiled import pack

INDEPENDENT = runpy.run_path(str(Path(__file__).parents[3] / "vectors" / "independent_decoder.py"))
SMALL = Layout.of({"a": (3, 5), "b": (), "c": (4, 0), "d": (7,)})


def gaussian(size: int, seed: int = 0) -> AdapterState:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return AdapterState(Layout.of({"a": (size,)}), values)


def round_trip(codec: Rate, delta: AdapterState) -> tuple[float, np.ndarray]:
    packed = codec.encode(delta)
    decoded = codec.decode(packed.parameters, packed.payload, delta.layout)
    assert packed.decoded.tobytes() == decoded.tobytes()
    return 8 * packed.size_bytes / delta.layout.size, decoded


@pytest.mark.parametrize("bits", [1, 4])
def test_a_gaussian_comes_within_an_eighth_of_a_bit_of_the_bound(bits):
    delta = gaussian(1 << 15)
    rate, decoded = round_trip(Rate(bits), delta)
    distortion = np.mean((delta.flat - decoded) ** 2, dtype=np.float64) / np.mean(delta.flat**2, dtype=np.float64)
    bound = 0.5 * np.log2(1 / distortion)  # bits that this distortion takes at least
    assert 0 < rate - bound < 0.125


def shapes(size: int) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(size)
    normal, sign, even = chance.standard_normal(size), chance.choice([-1, 1], size), chance.random(size)
    return {
        "Gaussian": normal,
        "one step of Adam": 1e-3 * sign,
        "few steps of Adam": sign * (1 + 0.2 * normal),
        "a step of Adam and zeros": chance.choice([-1, 0, 1], size),
        "sparse": normal * (even < 0.1),
        "sparser": normal * (even < 0.01),
        "lognormal": sign * np.exp(2 * normal),
        "two values": np.where(even < 0.3, 0.3, -1),
        "one value": np.full(size, 0.7),
        "one huge": np.append(normal[1:], 1e6),
        "zeros": np.zeros(size),
    }


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", ["Gaussian", "few steps of Adam"])
def test_the_rate_is_the_one_asked_for(bits, shape):
    values = shapes(1 << 16)[shape].astype(np.float32)
    rate, _ = round_trip(Rate(bits), AdapterState(Layout.of({"a": values.shape}), values))
    assert rate == pytest.approx(bits, rel=0.02)


SLOW = (2, *range(4, 10), 60, 1 << 14)


@pytest.mark.parametrize("size", [1, 3, 10, 700, *(pytest.param(size, marks=pytest.mark.slow) for size in SLOW)])
def test_more_bits_lose_less_or_as_little_as_announced_whatever_the_numbers(size):
    for shape, values in shapes(size).items():
        delta = AdapterState(Layout.of({"a": (size,)}), values.astype(np.float32))
        energy, before = np.square(delta.flat, dtype=np.float64).sum(), np.inf
        for bits in range(1, 9) if size > 1000 else (1, 2, 5, 8):
            packed = Rate(bits).encode(delta)
            decoded = Rate().decode(packed.parameters, packed.payload, delta.layout)
            lost = np.square(delta.flat - decoded, dtype=np.float64).sum()
            assert lost <= min(energy, max(before, Rate(bits).distortion * energy)) + 1e-12, (shape, bits)
            if size >= 700:
                assert lost <= 1.3 * Rate(bits).distortion * energy, (shape, bits)
            assert packed.size_bytes <= 1.05 * bits * size / 8 + 128, (shape, bits)
            before = lost


def test_bits_go_where_they_lower_the_error_most():
    quiet, loud = 1 << 14, 1 << 14
    layout = Layout.of({"loud": (loud,), "quiet": (quiet,)})
    values = np.random.default_rng(0).standard_normal(loud + quiet)
    values[loud:] /= 8
    rate, decoded = round_trip(Rate(1.0), AdapterState(layout, values.astype(np.float32)))
    # Reverse water-filling at 1 bit on average: 2 bits for the loud (D = 1/16), none for the quiet (D = 1/64).
    assert rate == pytest.approx(1.0, rel=0.02)
    assert np.mean((values - decoded)[:loud] ** 2) < 1.3 / 16
    assert np.mean((values - decoded)[loud:] ** 2) < 1.01 / 64


@pytest.mark.slow
@settings(max_examples=15)
@given(
    flat=hnp.arrays(np.float32, SMALL.size, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    bits=st.sampled_from([1, 8]),
    state_bits=st.sampled_from([2, 3, 5]),
)
def test_whatever_is_encoded_is_decoded_alike_by_the_independent_decoder(flat, bits, state_bits):
    packed = Rate(bits, state_bits).encode(AdapterState(SMALL, flat))
    decoded = Rate().decode(packed.parameters, packed.payload, SMALL)
    assert np.isfinite(decoded).all()
    independent = INDEPENDENT["rate"](packed.parameters, packed.payload, [slot.size for slot in SMALL.slots])
    assert decoded.tobytes() == b"".join(independent)
    assert packed.decoded is None or packed.decoded.tobytes() == decoded.tobytes()
    assert packed.size_bytes <= Rate().max_payload_bytes(SMALL)


@pytest.mark.parametrize("bits", [1, 6])
def test_many_lanes_and_groups_are_decoded_alike_by_the_independent_decoder(bits):
    layout = Layout.of({f"t{i}": (700 + i,) for i in range(5)})
    values = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    for power, slot in enumerate(layout.slots):
        values[slot.offset : slot.offset + slot.size] *= 0.5 ** (power % 3)
    packed = Rate(bits, 4).encode(AdapterState(layout, values))
    decoded = Rate().decode(packed.parameters, packed.payload, layout)
    independent = INDEPENDENT["rate"](packed.parameters, packed.payload, [slot.size for slot in layout.slots])
    assert packed.decoded.tobytes() == decoded.tobytes() == b"".join(independent)


MANY = Layout.of({f"t{i}": (50,) for i in range(2000)})


def parameters(layout: Layout, members: int, groups: int, quantisers: bytes, state_bits: int = 8) -> bytes:
    """Codec parameters that put all tensors of a layout into groups 1 … members, in turn, and describe `groups`."""
    member = [i % members + 1 for i in range(len(layout.slots))] + [0] * (len(layout.slots) % 2)
    nibbles = bytes(low | high << 4 for low, high in zip(member[::2], member[1::2], strict=True))
    return bytes([state_bits]) + np.float32(1).tobytes() + bytes([groups]) + nibbles + quantisers


def quantiser(largest: int, cost: int) -> bytes:
    return largest.to_bytes(2, "little") + bytes(6) + bytes([cost]) * (2 * len(knots(largest)))


@pytest.mark.parametrize(
    ("bomb", "payload"),
    [
        (parameters(MANY, 15, 15, quantiser(4096, 255) * 15), b""),
        (parameters(MANY, 15, 15, quantiser(4096, 241) * 15), b"\x12\x34\x56\x78"),
        (parameters(MANY, 1, 1, quantiser(1, 0)), b""),
        (parameters(MANY, 1, 1, quantiser(4096, 0), state_bits=2), bytes(4)),
    ],
)
def test_a_few_bytes_cannot_ask_for_more_than_the_layout_holds(bomb, payload):
    tracemalloc.start()
    try:
        decoded = Rate().decode(bomb, payload, MANY)
        assert decoded.shape == (MANY.size,)
        assert np.isfinite(decoded).all()
    except PeerError as error:
        assert "entropy-coded" in str(error)  # noqa: PT017
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 * MANY.size + (4 << 20)  # frequencies of 30 quantisers with 8,193 indices among them


def test_the_furthest_point_is_still_finite():
    head = bytes([2]) + np.float32(2.0**114).tobytes() + b"\x01\x01"
    quantisers = (4096).to_bytes(2, "little") + bytes([128] * 6) + bytes(2 * len(knots(4096)))  # shifts of -2 steps
    shares = frequencies(np.zeros(len(knots(4096)), np.uint8), 4096)
    state, second = 0, []
    for _ in range(10):  # of four states, as proto/README.md has them; the index is even
        second.append(state & 1)
        state = state >> 1 ^ 2 * second[-1]
    streams = pack(np.full(10, 8192, np.int32), np.array(second, np.uint8), [10], [4096], [shares, shares], 1)
    decoded = Rate().decode(head + quantisers, join(streams), Layout.of({"a": (10,)}))
    assert set(decoded.tolist()) <= {(2 * 4096 - quantiser + 2) * 2.0**114 for quantiser in (0, 1)}
