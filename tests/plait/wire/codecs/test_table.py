import pytest

from plait.errors import ConfigError, PeerError
from plait.v1 import envelope_pb2
from plait.wire.codecs import CODECS, Rate, codec_for, codec_numbered


def test_table_and_protobuf_enum_agree():
    numbers = {f"CODEC_{name.upper()}": codec.number for name, codec in CODECS.items()}
    assert numbers | {"CODEC_UNSPECIFIED": 0} == dict(envelope_pb2.Codec.items())


@pytest.mark.parametrize("number", [-1, 0, 5, 99])
def test_an_unknown_number_is_the_peers_fault(number):
    with pytest.raises(PeerError, match=f"codec of the payload is {number}, expected one of 1 .unchanged., 2 .fp32."):
        codec_numbered(number)


@pytest.mark.parametrize(("bits", "rate"), [("1", 1.0), ("8", 8.0), ("2.50", 2.5)])
def test_the_dial_takes_bits_per_parameter(bits, rate):
    assert codec_for(bits) == Rate(rate)


@pytest.mark.parametrize(
    "bits", ["0", "0.99", "8.01", "16", "-1", "+1", "1e0", "nan", "inf", "1.", ".5", " 1", "1_0", ""]
)
def test_a_rate_that_is_not_offered_is_refused(bits):
    with pytest.raises(ConfigError, match=r"expected fp32, bf16 or 1 to 8 bits per parameter"):
        codec_for(bits)


@pytest.mark.parametrize(("bits", "rank"), [("0.5", 4), ("0.25", 2), ("0.1", 1), ("0.001", 1)])
def test_who_asks_for_less_than_a_bit_is_told_the_rank_that_sends_as_little(bits, rank):
    with pytest.raises(ConfigError, match=f"to send less use --rank {rank} at 1 bit"):
        codec_for(bits)


@pytest.mark.parametrize(("bits", "nearest"), [("fp16", "fp32|bf16"), ("FP32", "fp32"), ("bfloat16", "bf16")])
def test_a_misspelt_codec_names_the_nearest(bits, nearest):
    with pytest.raises(ConfigError, match=f"bits is '{bits}', expected .*; did you mean '({nearest})'"):
        codec_for(bits)


@pytest.mark.parametrize("bits", ["unchanged", "rate"])
def test_a_codec_that_is_no_setting_cannot_be_asked_for(bits):
    with pytest.raises(ConfigError, match="expected fp32, bf16 or"):
        codec_for(bits)
