"""The contract of every codec: the checks of `plait check-plugin`, and what only plait's own must do."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plait.adapters import AdapterState, Layout
from plait.own_code import checked
from plait.wire.codecs import CODECS, codec_for
from plait.wire.codecs.own import CODEC_CHECKS
from plait.wire.codecs.plain import Bf16

LAYOUT = Layout.of({"a": (3, 5), "b": (), "c": (4, 0), "d": (7,)})
DIAL = [codec for name, codec in CODECS.items() if name != "unchanged"]
EXACT = [codec for codec in DIAL if codec.name != "rate"]
DELTAS = hnp.arrays(np.float32, LAYOUT.size, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize(
    "bits", ["fp32", "bf16", "1", *(pytest.param(rate, marks=pytest.mark.slow) for rate in ("8", "4", "2"))]
)
def test_every_codec_keeps_its_contract(bits):
    assert [verdict for verdict in checked(codec_for(bits), CODEC_CHECKS) if not verdict.holds] == []


@dataclass(frozen=True)
class Loose(Bf16):
    def decode(self, parameters, payload, layout):
        values = np.frombuffer(bytes(payload)[: 2 * layout.size].ljust(2 * layout.size, b"\xff"), "<u2")
        return (values.astype(np.uint32) << 16).view(np.float32)


def test_a_codec_that_takes_any_bytes_is_found_out():
    broken = [verdict.claim for verdict in checked(Loose(), CODEC_CHECKS) if not verdict.holds]
    assert broken == ["any bytes of a peer give finite numbers or a PeerError"]


@dataclass(frozen=True)
class Boastful(Bf16):
    def encode(self, delta):
        return replace(super().encode(delta), decoded=delta.flat)


def test_an_encoder_that_says_other_numbers_than_come_back_is_found_out():
    (broken,) = (verdict for verdict in checked(Boastful(), CODEC_CHECKS) if not verdict.holds)
    assert broken.claim == "a delta comes back finite, in its shape and within the stated size"


@pytest.mark.slow
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


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_an_adapter_without_tensors_costs_next_to_nothing(codec):
    empty = Layout.of({})
    packed = codec.encode(AdapterState.zeros(empty))
    assert packed.size_bytes <= 16
    assert codec.decode(packed.parameters, packed.payload, empty).shape == (0,)
