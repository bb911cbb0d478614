"""Codecs, one per file, and the table of their names and numbers."""

from plait.wire.codecs.fp32 import Fp32
from plait.wire.codecs.rate import Rate
from plait.wire.codecs.table import CODECS, SUM, UNCHANGED, codec_for, codec_numbered, sum_codec, without_zeros

__all__ = [
    "CODECS",
    "SUM",
    "UNCHANGED",
    "Fp32",
    "Rate",
    "codec_for",
    "codec_numbered",
    "sum_codec",
    "without_zeros",
]
