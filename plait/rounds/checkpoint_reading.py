"""The checkpoints of a run read again, each checked against its digests; damaged ones are skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy as safetensors_numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from plait.adapters import AdapterState, Float32, Json
from plait.adapters.safetensors import decode_safetensors
from plait.errors import PeerError, check_format
from plait.ledger.events import RoundFinished
from plait.rounds.run_state import CHECKPOINT_FORMAT, Ranks, RunState, Track, checkpoints_in, digest_of
from plait.system.json_text import read_json

_DAMAGE = (PeerError, OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError)


def load_checkpoint(directory: Path, ranks: Ranks) -> RunState:
    """The newest complete checkpoint; damaged ones are skipped."""
    damage = "there is none"
    for folder in reversed(checkpoints_in(directory)):
        try:
            return _load(folder, ranks)
        except _DAMAGE as error:
            damage = f"'{folder.name}': {error}"
    raise PeerError(f"no usable checkpoint in '{directory}': {damage}")


def damage_of(directory: Path) -> dict[str, str]:
    """The checkpoints by name, oldest first, with the damage of each; empty if it has none."""
    found: dict[str, str] = {}
    for folder in checkpoints_in(directory):
        try:
            _read(folder)
            found[folder.name] = ""
        except _DAMAGE as error:
            found[folder.name] = str(error)
    return found


def finished_in_checkpoint(directory: Path) -> tuple[RoundFinished | None, Mapping[str, Json]]:
    """The end of the round of the newest complete checkpoint, and what was remembered; None if there is none."""
    for folder in reversed(checkpoints_in(directory)):
        try:
            scalars = _read(folder)[0]
            return _finished(scalars), scalars["remembered"]
        except _DAMAGE:
            continue
    return None, {}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Scalars and files of a checkpoint, as they were written."""
    scalars = cast("dict[str, Any]", read_json((folder / "state.json").read_bytes()))
    check_format("state.json", scalars.get("format"), CHECKPOINT_FORMAT)
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
        versions={
            number: tuple(
                AdapterState(adapter.spec.layout, flats[f"version-{number}-{track}"])
                for track, adapter in enumerate(ranks.adapters)
            )
            for number in sorted({int(name.split("-")[1]) for name in flats if name.startswith("version-")})
        },
        remembered=scalars["remembered"],
        finished=_finished(scalars),
    )


def _optional(flats: Mapping[str, Float32], name: str, ranks: Ranks) -> AdapterState | None:
    return AdapterState(ranks.master.spec.layout, flats[name]) if name in flats else None


def _finished(scalars: Mapping[str, Any]) -> RoundFinished | None:
    return RoundFinished.model_validate(scalars["finished"]) if scalars["finished"] else None


def _arrays(data: bytes | None) -> dict[str, NDArray[np.generic]]:
    return dict(safetensors_numpy.load(data)) if data else {}
