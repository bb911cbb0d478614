"""A client's state from round to round, in one tagged file format.

A file is a safetensors file: format, run, rounds and tags are in its metadata, numbers in named arrays. It holds two
values: the one that the client's newest round started from (`before`) and the one at its end (`after`). A server that
was killed before it received the answer asks for the round again, and the round then starts from `before`.
Knows nothing of the meaning of tags and arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.adapters.safetensors import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.rounds.memory import Memory

FORMAT = "plait client state 1"

_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class Kept:
    """One value of a client's state.

    Attributes:
        round: the round that produced it; 0 for none.
    """

    round: int = 0
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict[str, NDArray[np.generic]])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def vector(self, name: str, size: int) -> Float32 | None:
        """The float32 array of this name; None unless there is one of `size` elements."""
        found = self.arrays.get(name)
        if found is None or found.shape != (size,) or found.dtype != np.float32:
            return None
        return found.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class ClientState:
    """The two values under one key.

    Attributes:
        run_id: the run, 16 bytes.
        before: the value that the newest round started from.
        after: the value at its end.
    """

    run_id: bytes
    before: Kept = Kept()
    after: Kept = Kept()

    def given_in(self, round_number: int) -> Kept:
        """The value that a round starts from, whether it is asked for the first time or again."""
        return self.before if round_number <= self.after.round else self.after

    def to_bytes(self) -> bytes:
        """The file's bytes; equal states give equal bytes."""
        metadata = {"format": FORMAT, "run": self.run_id.hex()}
        arrays: dict[str, NDArray[np.generic]] = {}
        for half, kept in (("before", self.before), ("after", self.after)):
            metadata[f"{half}.round"] = str(kept.round)
            metadata |= {f"{half}.{name}": text for name, text in kept.tags.items()}
            arrays |= {f"{half}.{name}": array for name, array in kept.arrays.items()}
        return encode_arrays(arrays, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> ClientState | None:
        """The inverse of `to_bytes`; None if damaged. Its arrays are views of `data`."""
        try:
            arrays, metadata = decode_arrays(data)
            run_id = bytes.fromhex(metadata.pop("run"))
            version = metadata.pop("format")
            rounds = {half: int(metadata.pop(f"{half}.round")) for half in ("before", "after")}
        except (PeerError, KeyError, ValueError):
            return None
        if version != FORMAT:
            return None
        halves = {half: Kept(rounds[half], _of(half, arrays), _of(half, metadata)) for half in rounds}
        return cls(run_id, halves["before"], halves["after"])


def recall_state(memory: Memory, key: str, run_id: bytes) -> ClientState:
    """The state under `key`; empty if it is lost, damaged or of another run."""
    found = ClientState.from_bytes(memory.load(key) or b"")
    return found if found and found.run_id == run_id else ClientState(run_id)


def _of(half: str, named: Mapping[str, _Value]) -> dict[str, _Value]:
    start = f"{half}."
    return {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}
