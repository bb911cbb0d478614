"""Codecs, one per file, and the table of their names and numbers."""

from plait.wire.codecs.bf16 import Bf16
from plait.wire.codecs.exact_sum import SUM
from plait.wire.codecs.fp32 import Fp32
from plait.wire.codecs.partial import Partial
from plait.wire.codecs.rate import Rate
from plait.wire.codecs.table import CODECS, UNCHANGED, codec_for, codec_numbered, without_zeros
from plait.wire.codecs.unchanged import Unchanged

__all__ = [
    "CODECS",
    "SUM",
    "UNCHANGED",
    "Bf16",
    "Fp32",
    "Partial",
    "Rate",
    "Unchanged",
    "codec_for",
    "codec_numbered",
    "without_zeros",
]
