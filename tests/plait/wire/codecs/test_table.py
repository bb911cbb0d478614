import pytest

from plait.errors import ConfigError, PeerError
from plait.v1 import envelope_pb2
from plait.wire.codecs import CODECS, codec_for, codec_numbered


def test_table_and_protobuf_enum_agree():
    numbers = {f"CODEC_{name.upper()}": codec.number for name, codec in CODECS.items()}
    assert numbers | {"CODEC_UNSPECIFIED": 0} == dict(envelope_pb2.Codec.items())


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_codec_is_found_by_its_number(codec):
    assert codec_numbered(codec.number) is codec


@pytest.mark.parametrize("number", [-1, 0, 4, 99])
def test_an_unknown_number_is_the_peers_fault(number):
    with pytest.raises(PeerError, match=f"codec of the payload is {number}, expected one of 1 .unchanged., 2 .fp32."):
        codec_numbered(number)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_the_dial_knows_the_exact_codecs(wire):
    assert codec_for(wire).name == wire


@pytest.mark.parametrize(("wire", "nearest"), [("fp16", "fp32|bf16"), ("FP32", "fp32"), ("bfloat16", "bf16")])
def test_a_misspelt_codec_names_the_nearest(wire, nearest):
    with pytest.raises(ConfigError, match=f"wire is '{wire}', expected fp32 or bf16; did you mean '({nearest})'"):
        codec_for(wire)


def test_unchanged_cannot_be_asked_for():
    with pytest.raises(ConfigError, match="expected fp32 or bf16"):
        codec_for("unchanged")
