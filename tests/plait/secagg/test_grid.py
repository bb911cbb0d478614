import numpy as np
import pytest

from plait.errors import PeerError
from plait.secagg.sums import Coding, Rotation, bits_for, check_sum, length_expected, unit_for
from plait.trust.masks import Ring


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("size", [0, 1, 8, 13])
def test_unpacking_gives_what_was_packed(bits, size):
    ring = Ring(bits)
    residues = np.random.default_rng(bits).integers(0, 1 << bits, size).astype(ring.dtype)
    packed = ring.pack(residues)
    assert len(packed) == ring.packed_bytes(size) == -(-size // 8) * bits
    np.testing.assert_array_equal(ring.unpack(packed, size), residues)
    expected = "".join(f"{residue:0{bits}b}"[::-1] for residue in residues)
    if bits <= 8:
        bitstring = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        assert "".join(map(str, bitstring))[: len(expected)] == expected


@pytest.mark.parametrize("data", [b"", bytes(6), bytes(8), b"\x00" * 6 + b"\x80"])
def test_other_bytes_are_refused(data):
    with pytest.raises(PeerError):
        Ring(7).unpack(data, 5)


@pytest.mark.parametrize("size", [1, 63, 64, 1000, 40_000])
def test_a_rotation_keeps_length_and_is_undone(size):
    rotation = Rotation(size, b"round 1")
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    rotated = rotation.forward(vector)
    np.testing.assert_allclose(np.linalg.norm(rotated), np.linalg.norm(vector), rtol=1e-5)
    np.testing.assert_allclose(rotation.backward(rotated), vector, atol=1e-5)


@pytest.mark.parametrize("clients", [4, 8, 100])
def test_the_sum_of_clients_that_agree_entirely_fits_the_ring(clients):
    size = 40_960
    generator = np.random.default_rng(clients)
    direction = generator.standard_normal(size).astype(np.float32)
    ring, rotation = Ring(bits_for(clients)), Rotation(size, b"1")
    length = float(np.linalg.norm(direction))
    coding = Coding(ring, clients, unit_for(ring, clients=clients, size=rotation.rotated_size, length=length))
    numbers = [coding.encode(rotation, direction, key=bytes([one] * 32)) for one in range(clients)]
    total = sum(numbers)
    wrapped = (ring.lifted(ring.reduced(total)) != total).mean()
    assert wrapped < 1e-3
    mean = coding.decode(rotation, total) / clients
    error = np.linalg.norm(mean - direction) / length
    assert error < 0.35
    np.testing.assert_allclose(mean @ direction / length**2, 1, atol=0.02)  # no shrinkage


def test_the_grid_is_finer_where_clients_agree_less():
    clients, size = 8, 40_960
    generator = np.random.default_rng(0)
    shared, *own = generator.standard_normal((1 + clients, size)).astype(np.float32)
    updates = [0.4 * shared + each for each in own]
    mean = sum(updates) / clients
    rms = float(np.sqrt(np.mean([update @ update for update in updates])))
    length = length_expected(mean=float(np.linalg.norm(mean)), rms=rms, clients=clients)
    assert rms / np.sqrt(clients) < length < 0.9 * rms
    ring, rotation = Ring(bits_for(clients)), Rotation(size, b"1")
    errors = []
    for wanted in (length, rms):
        coding = Coding(ring, clients, unit_for(ring, clients=clients, size=size, length=wanted))
        total = sum(coding.encode(rotation, update, key=bytes([k] * 32)) for k, update in enumerate(updates))
        assert (ring.lifted(ring.reduced(total)) == total).mean() > 0.9999
        errors.append(np.linalg.norm(coding.decode(rotation, total) / clients - mean))
    assert errors[0] < 0.8 * errors[1]
    assert length_expected(mean=rms, rms=rms, clients=clients) == rms
    # Clients that mostly cancel have a grid for what each sends.
    assert length_expected(mean=rms / 6, rms=rms, clients=clients) == pytest.approx(rms / np.sqrt(clients))
    # Whatever they say of their lengths, the mean that the sum shows bounds it.
    for said in (0.0, 1e-9, 1e9, 1e30):
        assert 0.999 <= length_expected(mean=1.0, rms=said, clients=clients) <= 4.001


@pytest.mark.parametrize("bits", [6, 7, 9])
def test_a_sum_that_wraps_around_is_refused_and_one_that_is_half_again_as_long_as_planned_is_not(bits):
    generator, ring = np.random.default_rng(0), Ring(bits)
    planned = (1 << (bits - 1)) / 4

    def wrapped(deviation):
        return float(ring.lifted(ring.reduced(np.rint(generator.normal(0, deviation, 4096)).astype(np.int64))).std())

    for factor in (0, 0.3, 1.0, 1.5):
        check_sum(ring, wrapped(factor * planned))
    for factor in (2.5, 4, 100):
        with pytest.raises(PeerError, match="departs from the protocol"):
            check_sum(ring, wrapped(factor * planned))


def test_no_client_sends_more_than_its_share_of_the_ring():
    size = 4096
    rotation, ring = Rotation(size, b"1"), Ring(6)
    coding = Coding(ring, 8, unit_for(ring, clients=8, size=size, length=1.0))
    huge = np.full(size, 1e6, np.float32)
    numbers = coding.encode(rotation, huge, key=bytes(32))
    assert int((numbers.astype(np.int64) ** 2).sum()) <= coding.most_square(size)
    again = coding.encode(rotation, huge, key=bytes(32))
    np.testing.assert_array_equal(again, numbers)
