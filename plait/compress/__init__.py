"""Named arrays in one bit a number, for anybody's loop: needs neither torch nor gRPC nor Flower."""

from plait.compress.downlink import Broadcaster, NotHeldError, Receiver
from plait.compress.feedback import Compressor
from plait.compress.message import CompressedDelta, decompress

__all__ = ["Broadcaster", "CompressedDelta", "Compressor", "NotHeldError", "Receiver", "decompress"]
