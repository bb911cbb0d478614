import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.wire.codecs.unchanged import Unchanged

LAYOUT = Layout.of({"a": (2, 2)})


def test_zeros_take_no_bytes():
    assert Unchanged().encode(AdapterState.zeros(LAYOUT)).size_bytes == 0
    assert Unchanged().decode(b"", b"", LAYOUT).tobytes() == bytes(16)


def test_anything_else_is_the_callers_mistake():
    with pytest.raises(ValueError, match="other than zero"):
        Unchanged().encode(AdapterState(LAYOUT, np.array([0, 0, 1e-45, 0], np.float32)))


@pytest.mark.parametrize(("parameters", "payload"), [(b"1", b""), (b"", b"1")])
def test_a_payload_is_refused(parameters, payload):
    with pytest.raises(PeerError, match="has 1 bytes, expected none"):
        Unchanged().decode(parameters, payload, LAYOUT)
