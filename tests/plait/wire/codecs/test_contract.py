"""The contract of every codec in the table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs import CODECS

LAYOUT = Layout.of({"a": (3, 5), "b": (), "c": (4, 0), "d": (7,)})
DIAL = [codec for name, codec in CODECS.items() if name != "unchanged"]
EXACT = [codec for codec in DIAL if codec.name != "rate"]
DELTAS = hnp.arrays(np.float32, LAYOUT.size, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize("codec", EXACT, ids=lambda codec: codec.name)
@given(flat=DELTAS)
def test_encoding_what_was_decoded_changes_nothing(codec, flat):
    once = codec.encode(AdapterState(LAYOUT, flat))
    decoded = codec.decode(once.parameters, once.payload, LAYOUT)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    again = codec.encode(AdapterState(LAYOUT, decoded))
    # Compared as decoded: a tensor whose numbers were all rounded to zero need not travel the second time.
    assert codec.decode(again.parameters, again.payload, LAYOUT).tobytes() == decoded.tobytes()


@pytest.mark.parametrize("codec", DIAL, ids=lambda codec: codec.name)
@settings(max_examples=20)
@given(flat=DELTAS)
def test_payload_stays_below_its_bound(codec, flat):
    assert codec.encode(AdapterState(LAYOUT, flat)).size_bytes <= codec.max_payload_bytes(LAYOUT)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_encoding_leaves_its_input_alone(codec):
    flat = (
        np.zeros(LAYOUT.size, np.float32)
        if codec.name == "unchanged"
        else np.linspace(-1, 3e38, LAYOUT.size, dtype=np.float32)
    )
    before = flat.copy()
    codec.encode(AdapterState(LAYOUT, flat))
    np.testing.assert_array_equal(flat, before)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(parameters=st.binary(max_size=3), payload=st.binary(max_size=100))
def test_any_bytes_decode_or_are_refused(codec, parameters, payload):
    try:
        decoded = codec.decode(parameters, payload, LAYOUT)
    except PeerError:
        return
    assert decoded.shape == (LAYOUT.size,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_an_adapter_without_tensors_costs_next_to_nothing(codec):
    empty = Layout.of({})
    packed = codec.encode(AdapterState.zeros(empty))
    assert packed.size_bytes <= 8
    assert codec.decode(packed.parameters, packed.payload, empty).shape == (0,)
