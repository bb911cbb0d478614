"""Checkpoints: the state after each finished round, whole on disk before the ledger says that the round is finished.

One folder a round: ``state.json`` (scalars, the digests of the rest, and its own), ``adapters.safetensors`` (master and
shadow, flat), ``broadcast.bin``. Older checkpoints are dropped once a newer one is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from plait.adapters import AdapterState, Json, Layout
from plait.adapters.safetensors_file import read_safetensors, write_safetensors
from plait.errors import PeerError
from plait.files import directory_written_aside, write_atomically
from plait.rounds.run_state import RunState

KEPT = 2


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Write `state` to ``directory/round-NNNNNN`` and drop all but the newest `KEPT` checkpoints.

    Raises:
        MachineError: the disk is full or read-only; the checkpoints before are untouched.
    """
    with directory_written_aside(directory / f"round-{state.round:06d}") as folder:
        write_safetensors(folder / "adapters.safetensors", {"adapter": state.adapter.flat, "shadow": state.shadow.flat})
        write_atomically(folder / "broadcast.bin", state.broadcast)
        scalars: dict[str, Json] = {
            "run_id": state.run_id.hex(),
            "round": state.round,
            "previous": state.previous.hex(),
            "held": {client: digest.hex() for client, digest in sorted(state.held.items())},
            "adapter": state.adapter.digest().hex(),
            "shadow": state.shadow.digest().hex(),
            "broadcast": hashlib.sha256(state.broadcast).hexdigest(),
            "finished": dict(state.finished),
        }
        scalars["digest"] = _digest(scalars)
        write_atomically(folder / "state.json", json.dumps(scalars, indent=1).encode())
    # What a killed process left half-written goes with them.
    for old in (*_rounds(directory)[:-KEPT], *directory.glob(".round-*")):
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(directory: Path, layout: Layout) -> RunState:
    """The newest checkpoint that is whole; a damaged one is passed over.

    Raises:
        PeerError: there is none.
    """
    damage = "there is none"
    for folder in reversed(_rounds(directory)):
        try:
            return _load(folder, layout)
        except (PeerError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damage = f"'{folder.name}': {error}"
    raise PeerError(f"no usable checkpoint in '{directory}': {damage}")


def _rounds(directory: Path) -> list[Path]:
    found = (path for path in directory.glob("round-*") if path.is_dir())
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _load(folder: Path, layout: Layout) -> RunState:
    scalars = json.loads((folder / "state.json").read_text())
    if scalars.pop("digest") != _digest(scalars) or folder.name != f"round-{scalars['round']:06d}":
        raise PeerError("state.json was changed, expected it as it was written")
    flats = read_safetensors(folder / "adapters.safetensors")
    broadcast = (folder / "broadcast.bin").read_bytes()
    adapter, shadow = (AdapterState(layout, flats[name]) for name in ("adapter", "shadow"))
    for name, digest in (
        ("adapter", adapter.digest().hex()),
        ("shadow", shadow.digest().hex()),
        ("broadcast", hashlib.sha256(broadcast).hexdigest()),
    ):
        if digest != scalars[name]:
            raise PeerError(f"digest of the {name} is {digest[:16]}, expected {scalars[name][:16]}")
    return RunState(
        run_id=bytes.fromhex(scalars["run_id"]),
        round=int(scalars["round"]),
        adapter=adapter,
        shadow=shadow,
        previous=bytes.fromhex(scalars["previous"]),
        broadcast=broadcast,
        held={client: bytes.fromhex(digest) for client, digest in cast("dict[str, str]", scalars["held"]).items()},
        finished=cast("dict[str, Json]", scalars["finished"]),
    )


def _digest(scalars: Mapping[str, Json]) -> str:
    return hashlib.sha256(json.dumps(scalars, sort_keys=True).encode()).hexdigest()
