"""A client's state between tasks: values by key, each in one tagged file format, and its secret of a run.

A state holds two values: the one that the client's newest round started from (`before`) and the one at its end
(`after`); a server that was killed before it received the answer asks for the round again, from `before`. Once a run is
over, only the personalized adapter stays, and the account of what the client's records have cost.
"""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.adapters.safetensors import decode_arrays, encode_arrays
from plait.errors import MachineError, PeerError
from plait.system.files import ensure_private_directory, failures_to, read_if_there, write_atomically

# Values without another copy: encoder residuals, optimizer moments, the adapter of the round before, a
# personal side, the losses of single sequences before round 1, the journal of masked sums, the secret of a run, and
# what was spent on the client's records.
IRREPLACEABLE = frozenset(
    {"residual", "moments", "rate", "slope", "own", "judged", "secagg", "secret", "record-privacy"}
)

# Of these, what may not be kept where it ends with the process: an account that is lost could be spent twice.
MUST_LAST = frozenset({"record-privacy"})

# What stays where a run is over on its server's word: by the secret the journal of the data recognises the run.
OUTLASTS_RUN = MUST_LAST | {"secret"}


class ClientStore(Protocol):
    """Bytes by key: the newest adapter and its spec, the base's movement, and the `IRREPLACEABLE` values."""

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        ...

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        ...


FORMAT = "plait client state 1"

_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class Kept:
    """One value of a client's state."""

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
    """The two values under one key."""

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
    def from_bytes(cls, data: bytes) -> "ClientState | None":
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


def recall_state(memory: ClientStore, key: str, run_id: bytes) -> ClientState:
    """The state under `key`; empty if it is lost, damaged or of another run."""
    found = ClientState.from_bytes(memory.load(key) or b"")
    return found if found and found.run_id == run_id else ClientState(run_id)


def _of(half: str, named: Mapping[str, _Value]) -> dict[str, _Value]:
    start = f"{half}."
    return {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}


@dataclass(eq=False)
class DiskMemory:
    """A `ClientStore` in a folder, which is made when something is first stored, private to its owner."""

    folder: Path
    _: KW_ONLY
    advice: str = "free some, or give another --state"

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        return read_if_there(self.folder / key)

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        # An adapter is stored at every task and seldom changes: reading it back is cheaper than an fsync.
        if self.load(key) == data:
            return
        ensure_private_directory(self.folder)
        try:
            write_atomically(self.folder / key, data)
        except MachineError as error:
            raise type(error)(f"{error}; {self.advice}") from error


_OWN = "own"


def keep_only_what_lasts(folder: Path, *, besides: Collection[str] = ()) -> None:
    """Remove what only further rounds would need from a client's folder of a run that is over."""
    own = ClientState.from_bytes(read_if_there(folder / _OWN) or b"")
    if own and own.before.arrays:
        write_atomically(folder / _OWN, ClientState(own.run_id, after=own.after).to_bytes())
    with failures_to(f"remove what a run left in '{folder}'"):
        for key in IRREPLACEABLE - {_OWN, *besides}:
            (folder / key).unlink(missing_ok=True)


def tidy_clients(run: Path) -> None:
    """Once a run is over, remove from its folder the state that simulated clients kept for further rounds."""
    for folder in (run / "clients").glob("*/"):
        # Files that cannot be removed only take space.
        with contextlib.suppress(MachineError):
            keep_only_what_lasts(folder)
