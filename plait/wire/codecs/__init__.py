"""Codecs, and the table of their names and numbers."""

from plait.wire.codecs.rate import Rate
from plait.wire.codecs.table import CODECS, UNCHANGED, codec_for, codec_numbered, without_zeros

__all__ = ["CODECS", "UNCHANGED", "Rate", "codec_for", "codec_numbered", "without_zeros"]
