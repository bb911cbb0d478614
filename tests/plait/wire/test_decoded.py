import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs import Rate
from plait.wire.decoded import DECODED, Decoded
from plait.wire.envelope import Direction, Header, encode_delta, open_envelope, seal

LAYOUT = Layout.of({"a": (40, 30)})
DELTA = AdapterState(LAYOUT, np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32))
UPDATE = Header(Direction.UPDATE, b"r" * 16, 1, "alice", b"b" * 32, b"s" * 32, relative_to=b"a" * 32, examples=7)
NUMBERS = np.arange(4, dtype=np.float32)


@pytest.fixture
def decoded(monkeypatch):
    """What codecs were asked to decode."""
    asked, decode = [], Rate.decode
    monkeypatch.setattr(Rate, "decode", lambda *given: asked.append(given) or decode(*given))
    return asked


def test_a_process_of_both_sides_decodes_nothing_and_gets_the_same(decoded):
    encoded = encode_delta(DELTA, Rate(1.0))
    data = seal(UPDATE, encoded).data
    apart = open_envelope(data, layout=LAYOUT).delta
    assert len(decoded) == 1
    with DECODED.kept():
        data = seal(UPDATE, encoded).data
        together = open_envelope(data, layout=LAYOUT).delta
    assert len(decoded) == 1
    assert together.digest() == apart.digest() == encoded.delta.digest()


def test_what_many_receive_is_decoded_once(decoded):
    data = seal(UPDATE, encode_delta(DELTA, Rate(1.0))).data
    with DECODED.kept():
        assert len({open_envelope(data, layout=LAYOUT).delta.digest() for _ in range(3)}) == 1
    assert len(decoded) == 1
    open_envelope(data, layout=LAYOUT)
    assert len(decoded) == 2


def test_numbers_of_another_layout_are_not_taken(decoded):
    data = seal(UPDATE, encode_delta(DELTA, Rate(1.0))).data
    with DECODED.kept():
        open_envelope(data, layout=LAYOUT)
        other = Layout.of({"a": (600,), "b": (601,)})
        with pytest.raises(PeerError):
            open_envelope(data, layout=other)
    assert len(decoded) == 2


def test_the_longest_unused_make_room():
    kept = Decoded()
    with kept.kept(2 * NUMBERS.nbytes):
        kept.add(b"1", NUMBERS)
        kept.add(b"2", NUMBERS)
        assert kept.find(b"1") is NUMBERS
        kept.add(b"3", NUMBERS)
        kept.add(b"too large", np.zeros(9, np.float32))
        assert [key for key in (b"1", b"2", b"3", b"too large") if kept.find(key) is not None] == [b"1", b"3"]
    assert kept.find(b"1") is None


def test_what_is_kept_again_counts_once_and_is_the_newest():
    kept = Decoded()
    with kept.kept(2 * NUMBERS.nbytes):
        for key in (b"1", b"2", b"1", b"3"):
            kept.add(key, NUMBERS)
        assert [key for key in (b"1", b"2", b"3") if kept.find(key) is not None] == [b"1", b"3"]
