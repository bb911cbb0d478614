"""The source of an export: the adapter of a run directory, of one client or of any PEFT directory, and its base.

A client's own adapter is a side of every pair (FedSA-LoRA), or a share of the whole; it lies in the run directory of a
simulation, else in its node's state. The base need not be on this disk: plait stored its name and fingerprint.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, BaseReference, Float32, Parent, parse_spec
from plait.adapters.peft import CARD_FILE, WEIGHTS_FILE
from plait.adapters.peft_reading import PeftAdapter, load_peft_directory
from plait.adapters.safetensors import parse_object
from plait.aggregation import RULES, Side, geometry_of
from plait.aggregation.geometry import put
from plait.data import Progress
from plait.errors import BaseMismatchError, ConfigError, PeerError, PlaitError, did_you_mean
from plait.ledger.events import ClientsDescribed, start_of
from plait.ledger.ledger import read_events
from plait.rounds.client_pipeline import OWN_ADAPTER, OWN_SIDE, own_adapter
from plait.rounds.memory import ClientState, Kept
from plait.rounds.run_directory import RunDirectory, check_given_out, recorded_settings
from plait.system.files import failures_to, lies_in, open_plain, read_if_there
from plait.system.text import Json
from plait.training.bases import LocatedBase, locate_base, locate_named_base

_MAX_TEXT_BYTES = 1 << 20
_UNSAFE = re.compile(r"[^\w.-]+")
_NOT_ASCII = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_CHARACTERS = 64
_DIGITS = 6


@dataclass(frozen=True)
class Source:
    """An adapter to export.

    Attributes:
        name: result of `plain_name`, for titles and for servers.
        base: the base that it was trained on.
        card: text of the README.md beside it, if any.
        facts: rounds, clients and losses of the run that made it, by the keys of ``summary.json``.
        digest: SHA-256 of the adapter's safetensors file, hexadecimal.
        parents: the adapters that it was derived from.
        client: owner of a personalized adapter; empty for the shared one.
        lost: fraction of the Frobenius norm of all products that a lower rank could not hold, 0 to 1.
    """

    name: str
    spec: AdapterSpec
    state: AdapterState
    base: BaseReference
    card: str | None
    facts: Mapping[str, float]
    digest: str
    parents: tuple[Parent, ...] = ()
    client: str = ""
    lost: float = 0.0

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method, such as ``LORA``."""
        return str(self.spec.peft_config.get("peft_type"))


def open_source(path: Path, *, base: str = "", progress: Progress = lambda _: None) -> Source:
    """Read an adapter and find its base.

    Args:
        path: a run directory (its ``adapter/`` is used) or a PEFT directory.
        base: name or directory of the base, if the one that the adapter names is elsewhere or unknown.

    Raises:
        ConfigError: there is no adapter at `path`, or its base is unknown.
        BaseMismatchError: `base` is another base than the one that it was trained on.
        PeerError: the directory is not valid.
    """
    adapter = RunDirectory(path).adapter
    run, folder = (path, adapter) if adapter.is_dir() else (None, path)
    check_given_out(folder)
    if not folder.is_dir():
        raise ConfigError(f"'{path}' is not a directory, expected a run directory or a PEFT directory")
    loaded = load_peft_directory(folder)
    spec = loaded.spec()
    return Source(
        name=_name_of(path),
        spec=spec,
        state=loaded.state,
        base=_base_of(loaded, folder, base, progress),
        # A stranger's link would publish a file of the exporting user.
        card=_read_text(folder / CARD_FILE) if lies_in(folder / CARD_FILE, folder) else None,
        facts=_facts(run),
        digest=_sha256(folder / WEIGHTS_FILE),
        parents=loaded.provenance.parents if loaded.provenance else (),
    )


def locate_weights(source: Source, *, progress: Progress) -> LocatedBase:
    """The base with its weights on this disk; BaseMismatchError if the adapter was trained on another one."""
    located = locate_named_base(source.base.here, where=source.name, progress=progress)
    located.check(source.base.fingerprint)
    return located


def base_in_commands(base: BaseReference) -> str:
    """The name for loading the base on this machine: its hub id if it has one, else its directory."""
    if base.hub_id or not base.built_in:
        return base.name
    return str(locate_base(base.built_in).directory)


def _base_of(loaded: PeftAdapter, folder: Path, given: str, progress: Progress) -> BaseReference:
    stated = loaded.base_fingerprint
    if stated and loaded.base_name and not given:
        built_in = loaded.provenance.built_in if loaded.provenance else None
        return BaseReference(loaded.base_name, loaded.revision, stated, built_in)
    located = locate_named_base(loaded.base_here, given=given, where=str(folder), progress=progress)
    located.check(stated)
    return located.reference


def plain_name(*parts: str) -> str:
    """A name for titles and servers made from these parts: letters and digits of any script, ``.``, ``_`` and ``-``."""
    return _UNSAFE.sub("-", unicodedata.normalize("NFC", "-".join(parts))).strip("-.")[:_MOST_CHARACTERS] or "adapter"


def ascii_name(name: str) -> str:
    """`name` for a server that accepts only ASCII; different names stay different."""
    plain = _NOT_ASCII.sub("", unicodedata.normalize("NFKD", name))
    if plain == name:
        return name
    # Accents and other scripts are lost: a few digits keep the names apart.
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{plain.strip('-.') or 'adapter'}-{digest}"


def _name_of(path: Path) -> str:
    resolved = path.resolve()
    return plain_name(resolved.parent.name if resolved.name == "adapter" and resolved.parent.name else resolved.name)


def _read_text(path: Path) -> str | None:
    with failures_to(f"read '{path}'"), suppress(FileNotFoundError), open_plain(path) as file:
        return file.read(_MAX_TEXT_BYTES).decode(errors="replace")
    return None


def _facts(run: Path | None) -> dict[str, float]:
    path = run / "summary.json" if run else None
    if path is None or not path.is_file():
        return {}
    try:
        summary: Mapping[str, Json] = parse_object(path.read_bytes(), what=f"'{path}'", max_bytes=_MAX_TEXT_BYTES)
    except (OSError, PeerError):
        # They only decorate the card: an unreadable summary counts as none.
        return {}
    wanted = ("rounds", "clients", "base_held_out_loss", "final_held_out_loss")
    return {key: float(value) for key in wanted if isinstance(value := summary.get(key), (int, float))}


def _sha256(path: Path) -> str:
    with failures_to(f"read '{path}'"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_personal(run: Path, client: str, *, base: str = "", progress: Progress = lambda _: None) -> Source:
    """The adapter of one client of a simulated run; ConfigError if the run has none of it."""
    directory = RunDirectory.find(run)
    events = read_events(directory.ledger)
    settings = recorded_settings(directory, events)
    start = start_of(events)
    # The ledger has it, so that a rule of the user's own is not imported here.
    side = start.rule.personal if start and start.rule else ""
    if not side and not settings.given_personalize:
        having = ", ".join(name for name, rule in RULES.items() if rule.personal)
        raise ConfigError(
            f"rule of '{run}' is '{settings.rule}', which gives all clients the same adapter, expected {having} (or "
            "--personalize) for --client; nearest: leave out --client"
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
    if side:
        state = with_own_side(source.spec, source.state, *_side(own))
    else:
        state = _mixed(source, own, settings.given_personalize)
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
    """The adapter that a node holds, with its own side where it has one; ConfigError without its base."""
    from plait.training import blueprint, peft_adapter  # torch

    if not base:
        raise ConfigError(f"'{path}' is a node's state, which names no base; give --base NAME or DIRECTORY")
    located = locate_base(base, progress=progress)
    text, flat = read_if_there(path / "spec") or b"", read_if_there(path / "adapter") or b""
    request = parse_spec(text.decode(errors="replace"))
    config = blueprint.read_base_config(located.directory, request.task, request.labels)
    spec = blueprint.design_from_spec(config, request, weights=located.directory).spec
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
    spec, state = peft_adapter.servable(spec, state)
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
    """The shared adapter with a client's own side in it; PlaitError if they are of another adapter."""
    geometry = geometry_of(spec)
    widths = [pair.d_out if side is Side.B else pair.d_in for pair in geometry.pairs]
    rank, rest = divmod(len(own), sum(widths) or 1)
    if rest or not rank or any(pair.rank != rank for pair in geometry.pairs):
        raise PlaitError(f"the client's own side has {len(own)} values, expected a rank times {sum(widths)}")
    flat = state.flat.copy()
    put(flat, [pair.slot(side).part for pair in geometry.pairs], own)
    return AdapterState(state.layout, flat)


def _own(folder: Path) -> Kept | None:
    data = read_if_there(folder / "own")
    state = ClientState.from_bytes(data) if data else None
    if data and state is None:
        raise PlaitError(f"'{folder / 'own'}' is damaged: copy the client's state again")
    return state and state.after


def _side(own: Kept) -> tuple[Float32, Side]:
    values, name = own.arrays.get("side"), own.tags.get("side")
    if values is None or values.ndim != 1 or values.dtype != np.float32 or name not in set(Side):
        raise PlaitError(f"own part of the client is {own.tags.get('kind', 'nothing')!a}, expected '{OWN_SIDE}'")
    return values.astype(np.float32), Side(name)


def _share(own: Kept) -> float:
    try:
        return float(own.tags["share"])
    except (KeyError, ValueError) as error:
        raise PlaitError("own adapter of the client has no share") from error
