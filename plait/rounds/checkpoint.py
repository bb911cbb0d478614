"""Checkpoints: the state after each finished round, complete on disk before the ledger records the round.

One folder per round: ``state.json`` (scalars, and the SHA-256 of itself and of every other file),
``adapters.safetensors`` (master, the master last accepted, shadows and their drifts, flat), the newest broadcast of
each track, and the state of rule and server optimizer. Older checkpoints are dropped
once a newer one is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors_numpy

from plait.adapters import Json
from plait.adapters.safetensors import encode_safetensors
from plait.files import directory_written_aside, write_atomically
from plait.rounds.run_state import RunState

KEPT = 2


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Write `state` to ``directory/round-NNNNNN`` and drop all but the newest `KEPT` checkpoints.

    Raises:
        MachineError: the disk is full or read-only; earlier checkpoints are intact.
    """
    files = _files(state)
    with directory_written_aside(directory / f"round-{state.round:06d}") as folder:
        for name, data in files.items():
            write_atomically(folder / name, data)
        scalars: dict[str, Json] = {
            "run_id": state.run_id.hex(),
            "round": state.round,
            "previous": [track.previous.hex() for track in state.tracks],
            "held": {client: held.hex() for client, held in sorted(state.held.items())},
            "norms": [dict(medians) for medians in state.norms],
            **({} if state.clip_norm is None else {"clip_norm": state.clip_norm}),
            **({} if state.update_length is None else {"update_length": state.update_length}),
            "remembered": dict(state.remembered),
            "finished": state.finished.fields() if state.finished else {},
            "besides": [{"event": event.event, **event.fields()} for event in state.besides],
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        scalars["digest"] = digest_of(scalars)
        write_atomically(folder / "state.json", json.dumps(scalars, indent=1).encode())
    # Removes the partial files of a killed process as well.
    for old in (*checkpoints_in(directory)[:-KEPT], *directory.glob(".round-*")):
        shutil.rmtree(old, ignore_errors=True)


def _files(state: RunState) -> dict[str, bytes]:
    adapters = {"adapter": state.adapter.flat}
    if state.accepted is not None:
        adapters["accepted"] = state.accepted.flat
    if state.accepted_shadow is not None:
        adapters["accepted-shadow"] = state.accepted_shadow.flat
    files: dict[str, bytes] = {}
    for number, track in enumerate(state.tracks):
        adapters[f"shadow-{number}"] = track.shadow.flat
        files[f"broadcast-{number}.bin"] = track.broadcast
    for version, shadows in sorted(state.versions.items()):
        adapters |= {f"version-{version}-{number}": shadow.flat for number, shadow in enumerate(shadows)}
    files["adapters.safetensors"] = encode_safetensors(adapters)
    for name, memory in (("rule", state.rule_memory), ("optimizer", state.optimizer_memory)):
        if memory:
            arrays = {key: np.ascontiguousarray(memory[key]) for key in sorted(memory)}
            files[f"{name}.safetensors"] = safetensors_numpy.save(arrays)
    return files


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    found = (path for path in directory.glob("round-*") if path.is_dir())
    return sorted(found, key=lambda path: (len(path.name), path.name))


def digest_of(scalars: Mapping[str, Json]) -> str:
    """SHA-256 of the scalars, in hexadecimal."""
    return hashlib.sha256(json.dumps(scalars, sort_keys=True).encode()).hexdigest()
