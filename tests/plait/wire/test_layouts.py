import zlib

import pytest

from plait.adapters import Layout
from plait.errors import ConfigError, PeerError
from plait.wire.layouts import MAX_TEXT_BYTES, check_layout, packed_layout

LAYOUT = Layout.of({"b": (2, 3), "a\u00e9": (4,)})


def test_a_layout_travels_as_the_text_that_its_digest_is_of():
    assert zlib.decompress(packed_layout(LAYOUT)) == b'[["a\\u00e9",[4]],["b",[2,3]]]'
    check_layout(packed_layout(LAYOUT), LAYOUT)
    check_layout(zlib.compress(LAYOUT.text.encode(), 0), LAYOUT)
    check_layout(b"", LAYOUT)


def test_another_layout_is_told_before_anything_is_trained():
    with pytest.raises(ConfigError, match=f"expected the 2 of {LAYOUT.size} that this client derives"):
        check_layout(packed_layout(Layout.of({"b": (3, 2)})), LAYOUT)


@pytest.mark.parametrize(
    "packed",
    [b"?", packed_layout(LAYOUT)[:-1], packed_layout(LAYOUT) + b"0", zlib.compress(bytes(MAX_TEXT_BYTES + 1))],
    ids=["no stream", "cut", "more after it", "a bomb"],
)
def test_bytes_that_are_no_layout_are_refused(packed):
    with pytest.raises(PeerError, match="layout"):
        check_layout(packed, LAYOUT)
