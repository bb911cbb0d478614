"""Checkpoints: the state after each finished round, complete on disk before the ledger records the round.

One folder per round: ``state.json`` (scalars, and the SHA-256 of itself and of every other file),
``adapters.safetensors`` (master, the master last accepted, shadows and their drifts, flat), the newest broadcast of
each track, and the state of rule and server optimizer. Older checkpoints are dropped once a newer one is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from plait.adapters import AdapterState, Float32, Json
from plait.adapters.safetensors import decode_safetensors, encode_safetensors
from plait.errors import PeerError
from plait.ledger.events import RoundFinished
from plait.rounds.run_state import Ranks, RunState, Track
from plait.system.files import directory_written_aside, write_atomically
from plait.system.json_text import read_json

KEPT = 2


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Write `state` to ``directory/round-NNNNNN`` and drop all but the newest `KEPT` checkpoints."""
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


def load_checkpoint(directory: Path, ranks: Ranks) -> RunState:
    """The newest complete checkpoint; damaged ones are skipped."""
    damage = "there is none"
    for folder in reversed(checkpoints_in(directory)):
        try:
            return _load(folder, ranks)
        except (PeerError, OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            damage = f"'{folder.name}': {error}"
    raise PeerError(f"no usable checkpoint in '{directory}': {damage}")


def damage_of(directory: Path) -> dict[str, str]:
    """The checkpoints by name, oldest first, with the damage of each; empty if it has none."""
    found: dict[str, str] = {}
    for folder in checkpoints_in(directory):
        try:
            _read(folder)
            found[folder.name] = ""
        except (PeerError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            found[folder.name] = str(error)
    return found


def finished_in_checkpoint(directory: Path) -> tuple[RoundFinished | None, Mapping[str, Json]]:
    """The end of the round of the newest complete checkpoint, and what was remembered; None if there is none."""
    for folder in reversed(checkpoints_in(directory)):
        try:
            scalars = _read(folder)[0]
            return _finished(scalars), scalars["remembered"]
        except (PeerError, OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return None, {}


def _versions(flats: Mapping[str, Float32], ranks: Ranks) -> dict[int, tuple[AdapterState, ...]]:
    rounds = {int(name.split("-")[1]) for name in flats if name.startswith("version-")}
    return {
        number: tuple(
            AdapterState(adapter.spec.layout, flats[f"version-{number}-{track}"])
            for track, adapter in enumerate(ranks.adapters)
        )
        for number in sorted(rounds)
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Scalars and files of a checkpoint, as they were written."""
    scalars = cast("dict[str, Any]", read_json((folder / "state.json").read_bytes()))
    if scalars.pop("digest") != digest_of(scalars) or folder.name != f"round-{scalars['round']:06d}":
        raise PeerError("state.json does not match its digest")
    files: dict[str, bytes] = {}
    for name, digest in cast("dict[str, str]", scalars["files"]).items():
        files[name] = (folder / Path(name).name).read_bytes()
        if (found := hashlib.sha256(files[name]).hexdigest()) != digest:
            raise PeerError(f"digest of {name} is {found[:16]}, expected {digest[:16]}")
    return scalars, files


def _load(folder: Path, ranks: Ranks) -> RunState:
    scalars, files = _read(folder)
    flats = decode_safetensors(files["adapters.safetensors"])
    tracks = tuple(
        Track(
            AdapterState(adapter.spec.layout, flats[f"shadow-{number}"]),
            bytes.fromhex(scalars["previous"][number]),
            files[f"broadcast-{number}.bin"],
        )
        for number, adapter in enumerate(ranks.adapters)
    )
    return RunState(
        run_id=bytes.fromhex(scalars["run_id"]),
        round=int(scalars["round"]),
        adapter=AdapterState(ranks.master.spec.layout, flats["adapter"]),
        tracks=tracks,
        held={client: bytes.fromhex(digest) for client, digest in cast("dict[str, str]", scalars["held"]).items()},
        rule_memory=_arrays(files.get("rule.safetensors")),
        optimizer_memory=_arrays(files.get("optimizer.safetensors")),
        norms=tuple(cast("list[dict[str, float]]", scalars["norms"])),
        clip_norm=scalars.get("clip_norm"),
        update_length=scalars.get("update_length"),
        accepted=_optional(flats, "accepted", ranks),
        accepted_shadow=_optional(flats, "accepted-shadow", ranks),
        versions=_versions(flats, ranks),
        remembered=scalars["remembered"],
        finished=_finished(scalars),
    )


def _optional(flats: Mapping[str, Float32], name: str, ranks: Ranks) -> AdapterState | None:
    return AdapterState(ranks.master.spec.layout, flats[name]) if name in flats else None


def _finished(scalars: Mapping[str, Any]) -> RoundFinished | None:
    return RoundFinished.model_validate(scalars["finished"]) if scalars["finished"] else None


def _arrays(data: bytes | None) -> dict[str, NDArray[np.generic]]:
    return dict(safetensors_numpy.load(data)) if data else {}
