"""The randomised Hadamard transform, which spreads a vector's length evenly over its numbers.

Suresh et al., "Distributed Mean Estimation with Limited Communication", arXiv 1611.00429, section 4: signs at random,
then H. It is linear and its own inverse but for the signs, so a sum of rotated vectors is the rotated sum. Blocks of
4,096 numbers, each of which takes every n-th number of the vector, so that every block has its share of a tensor with
large numbers. Knows no client.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from plait.adapters.state import Float32

_SIDE = 64
_BLOCK = _SIDE * _SIDE
_LEAST_SIDE = 8


class Rotation:
    """A rotation of vectors of one size.

    Args:
        seed: decides the signs; public, the same at all clients and the server.
    """

    def __init__(self, size: int, seed: bytes) -> None:
        # Small vectors have small blocks: what is filled up with zeros is sent too.
        self._side = _SIDE if size >= 8 * _BLOCK else _LEAST_SIDE
        block = self._side**2
        self._columns = -(-size // block)
        self.size, self.rotated_size = size, self._columns * block
        stream = Cipher(AES(hashlib.sha256(b"plait rotation 1" + seed).digest()), CTR(bytes(16))).encryptor()
        bits = np.unpackbits(np.frombuffer(stream.update(bytes(self.rotated_size // 8 + 1)), np.uint8))
        self._signs: Float32 = bits[: self.rotated_size].astype(np.float32) * 2 - 1

    def forward(self, vector: Float32) -> Float32:
        """(size,) to (rotated_size,), of the same length."""
        padded = np.zeros(self.rotated_size, np.float32)
        padded[: self.size] = vector
        return self._transformed(padded * self._signs)

    def backward(self, rotated: Float32) -> Float32:
        """(rotated_size,) to (size,): the inverse."""
        return (self._transformed(rotated) * self._signs)[: self.size]

    def _transformed(self, flat: Float32) -> Float32:
        side, matrix = self._side, _hadamard(self._side)
        # H of 4,096 is the Kronecker product of H of 64 with itself.
        once = (matrix @ flat.reshape(side, side * self._columns)).reshape(side, side, self._columns)
        return np.matmul(matrix, once).reshape(-1)


def _hadamard(side: int) -> Float32:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.float32(np.sqrt(side))).astype(np.float32)
