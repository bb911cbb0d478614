"""Checkpoints: the state after each finished round, whole on disk before the ledger says that the round is finished.

One folder a round: ``state.json`` (scalars and the digests of the rest), ``adapters.safetensors`` (master and shadow,
flat), ``broadcast.bin``. Older checkpoints are dropped once a newer one is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import cast

from plait.adapters import AdapterState, Layout
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
        scalars = {
            "run_id": state.run_id.hex(),
            "round": state.round,
            "previous": state.previous.hex(),
            "held": {client: digest.hex() for client, digest in sorted(state.held.items())},
            "adapter": state.adapter.digest().hex(),
            "shadow": state.shadow.digest().hex(),
            "broadcast": hashlib.sha256(state.broadcast).hexdigest(),
        }
        write_atomically(folder / "state.json", json.dumps(scalars, indent=1).encode())
    for old in _rounds(directory)[:-KEPT]:
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
        except (PeerError, OSError, ValueError, KeyError) as error:
            damage = str(error)
    raise PeerError(f"no usable checkpoint in '{directory}': {damage}")


def _rounds(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("round-*") if path.is_dir())


def _load(folder: Path, layout: Layout) -> RunState:
    scalars = json.loads((folder / "state.json").read_text())
    flats = read_safetensors(folder / "adapters.safetensors")
    broadcast = (folder / "broadcast.bin").read_bytes()
    adapter, shadow = (AdapterState(layout, flats[name]) for name in ("adapter", "shadow"))
    for name, digest in (
        ("adapter", adapter.digest().hex()),
        ("shadow", shadow.digest().hex()),
        ("broadcast", hashlib.sha256(broadcast).hexdigest()),
    ):
        if digest != scalars[name]:
            raise PeerError(f"checkpoint '{folder}' is damaged: {name} has another digest than state.json says")
    return RunState(
        run_id=bytes.fromhex(scalars["run_id"]),
        round=int(scalars["round"]),
        adapter=adapter,
        shadow=shadow,
        previous=bytes.fromhex(scalars["previous"]),
        broadcast=broadcast,
        held={client: bytes.fromhex(digest) for client, digest in cast("dict[str, str]", scalars["held"]).items()},
    )
