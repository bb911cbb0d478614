"""The adapter of one client where each has its own: a side of every pair (FedSA-LoRA), or a share of the whole.

A simulation keeps all of them in its run directory. On real machines each lies in its node's state, and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, parse_spec
from plait.aggregation import RULES, Side, geometry_of
from plait.config import config_from_table, read_config_table
from plait.errors import BaseMismatchError, ConfigError, PlaitError, did_you_mean
from plait.export.source import Source, open_source, plain_name
from plait.files import read_if_there
from plait.rounds.ledger import read_events
from plait.rounds.moved_base import base_from_bytes
from plait.rounds.own_adapter import own_adapter, read_own_adapter
from plait.rounds.past import Past
from plait.rounds.run_directory import RunDirectory
from plait.training.bases import Progress, locate_base
from plait.wire.bounds import RUN_ID_BYTES


def open_personal(run: Path, client: str, *, base: str = "", progress: Progress = lambda _: None) -> Source:
    """The adapter of one client of a simulated run.

    Args:
        run: the run directory.
        client: its name.
        base: as for `open_source`.
        progress: told in words what takes long.

    Raises:
        ConfigError: the run keeps nothing at clients, or it has no such client, or not what is its own.
        PeerError: what is kept is not sound.
    """
    directory = RunDirectory.find(run)
    settings = config_from_table(read_config_table(directory.config), where=str(directory.config))
    rule = RULES.get(settings.rule)
    side = rule.personal if rule else None
    if side is None and not settings.given_own_share:
        having = ", ".join(name for name, other in RULES.items() if other.personal)
        raise ConfigError(
            f"rule of '{run}' is '{settings.rule}', which gives all clients the same adapter, expected {having} (or "
            "--own-share) for --client; nearest: leave out --client"
        )
    names = [
        str(card["client"])
        for event in read_events(directory.ledger)
        if event["event"] == "clients_described"
        for card in event["clients"]  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable, reportUnknownVariableType]
    ]
    if client not in names:
        raise ConfigError(f"client is '{client}', expected one of {', '.join(names)}{did_you_mean(client, names)}")
    own = read_if_there(directory.client_memory(client) / "own")
    if own is None:
        raise ConfigError(
            f"'{run}' has nothing of '{client}': it has not trained yet, or keeps what is its own on its "
            "machine (there: plait export STATE/RUN/NAME --base BASE)"
        )
    source = open_source(run, base=base, progress=progress)
    state = (
        _mixed(source, _newest(own), settings.given_own_share)
        if side is None
        else with_own_side(source.spec, source.state, _newest(own), side)
    )
    return replace(source, name=plain_name(source.name, client), client=client, state=state, card=None, facts={})


def _mixed(source: Source, own: bytes, share: float) -> AdapterState:
    if read_own_adapter(own, source.state.layout.size) is None:
        raise ConfigError(
            f"adapter '{source.name}' is published in another form than clients train it in, expected the same for "
            "--client; nearest: leave out --client"
        )
    return own_adapter(source.state, own, share)


def is_node_state(path: Path) -> bool:
    """Whether a node keeps what belongs to one run here."""
    return (path / "spec").is_file() and (path / "adapter").is_file()


def open_node(path: Path, *, base: str, progress: Progress = lambda _: None) -> Source:
    """The adapter that a node holds, with its own side where it has one.

    Args:
        path: the node's state of one run.
        base: the base that the run is on.
        progress: told in words what takes long.

    Raises:
        ConfigError: no base is given, or the adapter does not fit it.
        PeerError: what is kept is not sound.
    """
    # Brings torch along.
    from plait.training.blueprint import design_from_spec, read_base_config
    from plait.training.published import published

    if not base:
        raise ConfigError(f"'{path}' is a node's state, which names no base, expected --base NAME or DIRECTORY")
    located = locate_base(base, progress=progress)
    text, flat = read_if_there(path / "spec") or b"", read_if_there(path / "adapter") or b""
    request = parse_spec(text.decode(errors="replace"))
    config = read_base_config(located.directory, request.task, request.labels)
    spec = design_from_spec(config, request, weights=located.directory).spec
    if len(flat) != 4 * spec.layout.size:
        raise BaseMismatchError(
            f"adapter in '{path}' has {len(flat) // 4} values, base '{base}' makes one of {spec.layout.size}: "
            "give the base of the run"
        )
    state = AdapterState(spec.layout, np.frombuffer(flat, "<f4").astype(np.float32))
    geometry = geometry_of(spec)
    own = read_if_there(path / "own")
    if own is not None:
        values = _newest(own)
        if found := read_own_adapter(values, spec.layout.size):
            state = own_adapter(state, values, found[0])
        sides = [side for side in (Side.B, Side.A) if geometry.side_size(side) * 4 == len(values)]
        if sides:
            state = with_own_side(spec, state, values, sides[0])
    beneath = read_if_there(path / "base")
    moved = base_from_bytes(beneath and beneath[RUN_ID_BYTES:], geometry)
    if beneath and not moved.digest:
        raise PlaitError(f"'{path / 'base'}' is damaged, expected what the node's base has moved by")
    spec, state = published(spec, state, geometry, moved)
    return Source(
        name=plain_name(path.name, "own"),
        client=path.name,
        spec=spec,
        state=state,
        base=located.reference,
        card=None,
        facts={},
        digest=state.digest().hex(),
    )


def with_own_side(spec: AdapterSpec, state: AdapterState, own: bytes, side: Side) -> AdapterState:
    """The shared adapter with a client's own side in it.

    Where the published adapter has more columns than clients train (it stands on frozen adapters), the client's are the
    first ones.

    Args:
        spec: of the shared adapter.
        state: its values.
        own: float32 values of the side, pair by pair.
        side: which one.

    Raises:
        PlaitError: they are of another adapter.
    """
    geometry = geometry_of(spec)
    widths = [pair.d_out if side is Side.B else pair.d_in for pair in geometry.pairs]
    rank, rest = divmod(len(own) // 4, sum(widths) or 1)
    if rest or not rank or any(pair.rank < rank for pair in geometry.pairs):
        raise PlaitError(f"the client's own side has {len(own) // 4} values, expected a rank times {sum(widths)}")
    flat, values, at = state.flat.copy(), np.frombuffer(own, "<f4"), 0
    for pair, width in zip(geometry.pairs, widths, strict=True):
        part = values[at : at + rank * width]
        if side is Side.B:
            pair.b_of(flat)[:, :rank] = part.reshape(width, rank)
        else:
            pair.a_of(flat)[:rank] = part.reshape(rank, width)
        at += rank * width
    return AdapterState(state.layout, flat)


def _newest(own: bytes) -> bytes:
    return Past.from_bytes(own, own[:RUN_ID_BYTES]).after
