"""The state of a run between two rounds, the pure functions from one to the next, and its checkpoints.

`adapter` is the server's own float32 master. A *shadow* is the adapter of up-to-date clients: the wire may have rounded
it. What a broadcast left out stays in `adapter - shadow` and is sent with the next one. Clients of another rank follow
a separate *track*, with the best approximation of the master or its leading part (the rule decides).

A checkpoint is the state after a finished round, complete on disk before the ledger records the round. One folder per
round: ``state.json`` (scalars, and the SHA-256 of itself and of every other file), ``adapters.safetensors``, the newest
broadcast of each track, and the state of rule and server optimizer. Those that are damaged are skipped.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from plait.adapters import AdapterSpec, AdapterState, Float32, add
from plait.adapters.safetensors import decode_safetensors, encode_arrays
from plait.aggregation import Geometry, Memory, OptimizerState, Resizing
from plait.errors import PeerError, check_format
from plait.ledger.events import RoundFinished
from plait.rounds.validate import Norms
from plait.system.files import directory_written_aside, write_atomically
from plait.system.text import Json, read_json


@dataclass(frozen=True, eq=False)
class RankedAdapter:
    """The adapter of one rank before any training."""

    rank: int  # of every pair; 0 if the method has no rank
    spec: AdapterSpec
    geometry: Geometry
    initial: AdapterState


@dataclass(frozen=True, eq=False)
class Ranks:
    """All adapters of the federation.

    Attributes:
        clients_have_masters: whether clients may also have the server's own rank.
    """

    adapters: tuple[RankedAdapter, ...]
    resizing: Resizing = Resizing.SLICE
    clients_have_masters: bool = True

    @property
    def master(self) -> RankedAdapter:
        """The server's own."""
        return self.adapters[0]

    @property
    def cohort(self) -> tuple[Geometry, ...]:
        """The geometries that clients may have; empty if all have the server's."""
        return tuple(self.adapters[track].geometry for track in self._of_clients) if len(self.adapters) > 1 else ()

    def track_for(self, max_rank: int) -> int:
        """Index of the adapter for a client with this largest rank (0: any), the smallest if none fits."""
        tracks = sorted(self._of_clients, key=lambda track: -self.adapters[track].rank)
        fitting = (track for track in tracks if not max_rank or self.adapters[track].rank <= max_rank)
        return next(fitting, tracks[-1])

    def resized(self, master: AdapterState, track: int) -> AdapterState:
        """The adapter of a track's clients when the server holds `master`."""
        target = self.adapters[track]
        if target is self.master:
            return master
        from plait.aggregation.factors import fitted

        return fitted(
            master,
            source=self.master.geometry,
            target=target.geometry,
            resizing=self.resizing,
            fresh=target.initial,
        )

    @property
    def opened_bytes(self) -> int:
        """Memory that the numbers of an update take, at most."""
        return 4 * max(adapter.geometry.layout.size for adapter in self.adapters)

    @property
    def _of_clients(self) -> range:
        return range(0 if self.clients_have_masters or len(self.adapters) == 1 else 1, len(self.adapters))


@dataclass(frozen=True)
class Track:
    """The adapter of the clients of one rank, and the step that led there."""

    shadow: AdapterState  # of an up-to-date client
    previous: bytes = b""  # digest of the shadow before; empty before round 1
    broadcast: bytes = b""  # the sealed envelope from the previous shadow to this one; likewise


@dataclass(frozen=True)
class RunState:
    """Everything that the next round depends on.

    Attributes:
        held: digest of the adapter that each client holds, by client name; empty for none.
        norms: medians of the update norms of recent rounds (see validate.py).
        accepted: the master at the last evaluation that was not worse (see watch.py); None if nothing is kept.
        accepted_shadow: the adapter that is published, where that follows from evaluations.
        versions: the shadows of earlier rounds from which updates may still come, by round.
        remembered: what the run's way remembers besides from round to round, as JSON.
        finished: the event that ends round `round`; None before round 1. It is kept with the state so that the ledger
            can be completed after a crash between the two.
    """

    run_id: bytes
    round: int
    adapter: AdapterState
    tracks: tuple[Track, ...]
    held: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    rule_memory: Memory = field(default_factory=dict[str, NDArray[np.generic]])
    optimizer_memory: OptimizerState = field(default_factory=dict[str, NDArray[np.generic]])
    norms: tuple[Norms, ...] = ()
    clip_norm: float | None = None
    update_length: float | None = None
    accepted: AdapterState | None = None
    accepted_shadow: AdapterState | None = None
    versions: Mapping[int, tuple[AdapterState, ...]] = field(default_factory=dict[int, tuple[AdapterState, ...]])
    remembered: Mapping[str, Json] = field(default_factory=dict[str, Json])
    finished: RoundFinished | None = None

    @property
    def shadow(self) -> AdapterState:
        """The adapter of an up-to-date client of the master's rank."""
        return self.tracks[0].shadow

    def at(self, version: int) -> "RunState":
        """The state as clients know it that began with the adapter of round `version`."""
        if version == self.round:
            return self
        tracks = tuple(Track(shadow) for shadow in self.versions[version])
        return replace(self, round=version, tracks=tracks, versions={})

    def held_on(self, track: int) -> bytes:
        """Digest of the adapter of an up-to-date client of this track."""
        return self.tracks[track].shadow.digest()


def initial_state(run_id: bytes, ranks: Ranks) -> RunState:
    """The state before round 1: every client derives its adapter from the spec's seed, so no broadcast is needed."""
    tracks = tuple(Track(adapter.initial) for adapter in ranks.adapters)
    return RunState(run_id=run_id, round=0, adapter=ranks.master.initial, tracks=tracks)


def advance(state: RunState, step: AdapterState) -> RunState:
    """The state after a round: the rule's `step` is added to the master; the shadows follow with the next broadcast."""
    return replace(state, round=state.round + 1, adapter=add(state.adapter, step))


def note_held(state: RunState, held: Mapping[str, bytes]) -> RunState:
    """Record what some clients hold; all at once, since each call copies what is known of all."""
    return replace(state, held={**state.held, **held})


def sample_cohort(clients: Sequence[str], size: int, *, seed: int, round_number: int) -> tuple[str, ...]:
    """The clients of a round: `size` of them without replacement, in name order, decided by seed and round."""
    ordered = sorted(clients)
    if size >= len(ordered):
        return tuple(ordered)
    generator = np.random.default_rng([seed, round_number])
    chosen = generator.choice(len(ordered), size=size, replace=False)
    return tuple(ordered[index] for index in sorted(chosen))


def choose_cohort(
    clients: Sequence[str], size: int, *, seed: int, round_number: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The clients asked in a round, and the order of those that replace them."""
    cohort = sample_cohort(clients, size, seed=seed, round_number=round_number)
    others = sorted(set(clients) - set(cohort))
    np.random.default_rng([seed, round_number, 1]).shuffle(others)
    return cohort, tuple(others)


def client_seed(seed: int, round_number: int, client: str) -> int:
    """The 63-bit seed of one client's work in one round, independent of the other clients."""
    text = f"{seed}/{round_number}/{client}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


CHECKPOINT_FORMAT = 1
CHECKPOINTS_KEPT = 2


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Write `state` to ``directory/round-NNNNNN`` and drop all but the newest `CHECKPOINTS_KEPT` checkpoints."""
    files = _files(state)
    with directory_written_aside(directory / f"round-{state.round:06d}") as folder:
        for name, data in files.items():
            write_atomically(folder / name, data)
        scalars: dict[str, Json] = {
            "format": CHECKPOINT_FORMAT,
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
    for old in (*checkpoints_in(directory)[:-CHECKPOINTS_KEPT], *directory.glob(".round-*")):
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
    files["adapters.safetensors"] = encode_arrays(adapters)
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
