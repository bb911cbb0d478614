import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs import Rate, compiled
from plait.wire.codecs.trellis import GREATEST_COST, STATE_BITS, Trellis


@pytest.fixture(autouse=True)
def built():
    if compiled.library() is None:
        pytest.skip("no C++ compiler here")


@pytest.fixture
def in_numpy(monkeypatch):
    """A function that calls another one with nothing compiled."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "library", lambda: None)
            return function(*arguments)

    return call


@pytest.mark.parametrize("greatest", [3, GREATEST_COST])  # small costs are often equal
@pytest.mark.parametrize(("size", "lanes"), [(6, 1), (11, 2), (1000, 37), (1283, 64), (2000, 150)])
def test_the_paths_are_those_of_numpy(size, lanes, greatest, in_numpy):
    chance = np.random.default_rng(size)
    costs = chance.integers(0, greatest + 1, (4, 30), np.int16)
    cell = chance.integers(0, 30, size, np.int32)
    for state_bits in sorted(STATE_BITS):
        trellis = Trellis(state_bits)
        found = trellis.cheapest(cell, costs, lanes)
        np.testing.assert_array_equal(found, in_numpy(trellis.cheapest, cell, costs, lanes))


def grouped(tensors: int, size: int, *, seed: int = 0) -> AdapterState:
    """Tensors of three scales, of which the last is all zeros."""
    chance = np.random.default_rng(seed)
    layout = Layout.of({f"t{i}": (size + 7 * i,) for i in range(tensors)})
    values = [chance.standard_normal(slot.size) * 0.3 ** (i % 3) for i, slot in enumerate(layout.slots)]
    values[-1][:] = 0
    return AdapterState(layout, np.concatenate(values).astype(np.float32))


@pytest.mark.parametrize(
    ("tensors", "size", "bits"),
    [
        *((1, 0, bits) for bits in (1.0, 3.0, 8.0)),
        *((2, 5, bits) for bits in (1.0, 3.0, 8.0)),
        *((5, 700, bits) for bits in (1.0, 3.0, 8.0)),
        (7, 20_000, 3.0),
        (12, 50_003, 1.0),
    ],
)
def test_bytes_and_numbers_are_those_without_a_compiler(tensors, size, bits, in_numpy):
    """From no number over one lane, and one stream, to all streams."""
    delta = grouped(tensors, size)
    packed = Rate(bits).encode(delta)
    assert packed == in_numpy(Rate(bits).encode, delta)
    decoded = Rate().decode(packed.parameters, packed.payload, delta.layout)
    assert decoded.tobytes() == in_numpy(Rate().decode, packed.parameters, packed.payload, delta.layout).tobytes()
    assert packed.decoded is None or packed.decoded.tobytes() == decoded.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_is_broken_is_refused_as_without_a_compiler(seed, in_numpy):
    chance = np.random.default_rng(seed)
    delta = grouped(7, 20_000, seed=seed)
    packed = Rate(1.0).encode(delta)

    def outcome(payload: bytes) -> bytes | str:
        try:
            return Rate().decode(packed.parameters, payload, delta.layout).tobytes()
        except PeerError as error:
            return str(error)

    refused = 0
    for _ in range(10):
        broken = bytearray(packed.payload)
        at = int(chance.integers(0, len(broken)))
        if chance.integers(2):
            broken[at] ^= int(chance.integers(1, 256))
        else:
            del broken[at & ~3 : (at & ~3) + 4]
        got = outcome(bytes(broken))
        assert got == in_numpy(outcome, bytes(broken))
        refused += isinstance(got, str)
    assert refused > 7
