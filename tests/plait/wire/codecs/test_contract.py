"""The contract of every codec; the checks are those of `plait check-plugin`."""

from dataclasses import dataclass

import numpy as np
import pytest

from plait.contract import checked
from plait.wire.codecs import codec_for
from plait.wire.codecs.bf16 import Bf16
from plait.wire.codecs.contract import CODEC_CHECKS


@pytest.mark.parametrize("wire", ["fp32", "bf16", "8", "4", "2", "1", "0.5"])
def test_every_codec_keeps_its_contract(wire):
    assert [verdict for verdict in checked(codec_for(wire), CODEC_CHECKS) if not verdict.holds] == []


@dataclass(frozen=True)
class Loose(Bf16):
    def decode(self, parameters, payload, layout):
        values = np.frombuffer(bytes(payload)[: 2 * layout.size].ljust(2 * layout.size, b"\xff"), "<u2")
        return (values.astype(np.uint32) << 16).view(np.float32)


def test_a_codec_that_takes_any_bytes_is_found_out():
    broken = [verdict.claim for verdict in checked(Loose(), CODEC_CHECKS) if not verdict.holds]
    assert broken == ["any bytes of a peer give finite numbers or a PeerError"]
