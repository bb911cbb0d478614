"""How many bytes the blocks of GGUF's formats take, which memory is planned by."""

from __future__ import annotations

from typing import NamedTuple


class BlockSize(NamedTuple):
    """The values of a block, and its bytes."""

    values: int
    nbytes: int


Q5_0 = BlockSize(32, 22)
Q8_0 = BlockSize(32, 34)
