"""The adapter of one client where each has its own: a side of every pair (FedSA-LoRA), or a share of the whole.

A simulation keeps all of them in its run directory. On real machines each lies in its node's state, and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Float32, parse_spec
from plait.aggregation import RULES, Side, geometry_of
from plait.data import Progress
from plait.errors import BaseMismatchError, ConfigError, PlaitError, did_you_mean
from plait.exporting.source import Source, open_source, plain_name
from plait.ledger.events import ClientsDescribed, start_of
from plait.ledger.ledger import read_events
from plait.rounds.hooks import OWN_ADAPTER, OWN_SIDE, own_adapter
from plait.rounds.memory import ClientState, Kept
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.system.files import read_if_there
from plait.training.bases import locate_base


def open_personal(run: Path, client: str, *, base: str = "", progress: Progress = lambda _: None) -> Source:
    """The adapter of one client of a simulated run.

    Raises:
        ConfigError: the run keeps nothing at clients, or it has no such client, or not what is its own.
        PeerError: what is kept is not sound.
    """
    directory = RunDirectory.find(run)
    events = read_events(directory.ledger)
    settings = recorded_settings(directory, events)
    start = start_of(events)
    # The ledger has it, so that a rule of the user's own is not imported here.
    side = start.rule.personal if start and start.rule else ""
    if not side and not settings.given_own_share:
        having = ", ".join(name for name, rule in RULES.items() if rule.personal)
        raise ConfigError(
            f"rule of '{run}' is '{settings.rule}', which gives all clients the same adapter, expected {having} (or "
            "--own-share) for --client; nearest: leave out --client"
        )
    names = [card.client for event in events if isinstance(event, ClientsDescribed) for card in event.clients]
    if names and client not in names:
        raise ConfigError(f"client is '{client}', expected one of {', '.join(names)}{did_you_mean(client, names)}")
    own = _own(directory.client_memory(client))
    if own is None:
        raise ConfigError(
            f"'{run}' has no adapter of '{client}': it has not trained yet, or its adapter is on its own machine "
            f"(there: plait export STATE/RUN/NAME --base BASE)"
        )
    source = open_source(run, base=base, progress=progress)
    state = (
        _mixed(source, own, settings.given_own_share)
        if not side
        else with_own_side(source.spec, source.state, *_side(own))
    )
    return replace(source, name=plain_name(source.name, client), client=client, state=state, card=None, facts={})


def _mixed(source: Source, own: Kept, share: float) -> AdapterState:
    if own.vector("lead", source.state.layout.size) is None:
        raise ConfigError(
            f"adapter '{source.name}' is published in a form that clients do not train, so it cannot be combined "
            f"with --client; nearest: leave out --client"
        )
    return own_adapter(source.state, own, share)


def is_node_state(path: Path) -> bool:
    """Whether a node keeps what belongs to one run here."""
    return (path / "spec").is_file() and (path / "adapter").is_file()


def open_node(path: Path, *, base: str, progress: Progress = lambda _: None) -> Source:
    """The adapter that a node holds, with its own side where it has one.

    Raises:
        ConfigError: no base is given, or the adapter does not fit it.
        PeerError: what is kept is not sound.
    """
    # Brings torch along.
    from plait.training.blueprint import design_from_spec, read_base_config
    from plait.training.peft_adapter import servable

    if not base:
        raise ConfigError(f"'{path}' is a node's state, which names no base; give --base NAME or DIRECTORY")
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
    own = _own(path)
    if own and own.tags.get("kind") == OWN_ADAPTER:
        state = own_adapter(state, own, _share(own))
    elif own and own.tags.get("kind") == OWN_SIDE:
        state = with_own_side(spec, state, *_side(own))
    spec, state = servable(spec, state)
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


def with_own_side(spec: AdapterSpec, state: AdapterState, own: Float32, side: Side) -> AdapterState:
    """The shared adapter with a client's own side in it.

    Raises:
        PlaitError: they are of another adapter.
    """
    geometry = geometry_of(spec)
    widths = [pair.d_out if side is Side.B else pair.d_in for pair in geometry.pairs]
    rank, rest = divmod(len(own), sum(widths) or 1)
    if rest or not rank or any(pair.rank != rank for pair in geometry.pairs):
        raise PlaitError(f"the client's own side has {len(own)} values, expected a rank times {sum(widths)}")
    flat, at = state.flat.copy(), 0
    for pair, width in zip(geometry.pairs, widths, strict=True):
        part = own[at : at + rank * width]
        if side is Side.B:
            pair.b_of(flat)[:] = part.reshape(width, rank)
        else:
            pair.a_of(flat)[:] = part.reshape(rank, width)
        at += rank * width
    return AdapterState(state.layout, flat)


def _own(folder: Path) -> Kept | None:
    """The personal part of the client's state after its newest round; None if there is none."""
    data = read_if_there(folder / "own")
    state = ClientState.from_bytes(data) if data else None
    if data and state is None:
        raise PlaitError(f"'{folder / 'own'}' is damaged, expected what is the client's own")
    return state and state.after


def _side(own: Kept) -> tuple[Float32, Side]:
    values, name = own.arrays.get("side"), own.tags.get("side")
    if values is None or values.ndim != 1 or values.dtype != np.float32 or name not in set(Side):
        raise PlaitError(f"what is the client's own is {own.tags.get('kind', 'nothing')!a}, expected '{OWN_SIDE}'")
    return values.astype(np.float32), Side(name)


def _share(own: Kept) -> float:
    try:
        return float(own.tags["share"])
    except (KeyError, ValueError) as error:
        raise PlaitError("the client's own adapter has no share, expected a number") from error
