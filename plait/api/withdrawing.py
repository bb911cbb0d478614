"""Withdraw a client from a finished run. Every step is on disk before the next, and may be repeated after a crash.

1. The ledger records that the client withdraws, and the old adapter goes into quarantine.
2. The others train again: a run of its own directory with the same settings but for the client.
3. The ledger records that what is kept of the client is erased; it is, with all updates and checkpoints.
4. The ledger keeps a tombstone with the digest of the new adapter.

With differential privacy of clients no one trains again: epsilon bounds what the adapter reveals about any client.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plait.adapters.peft import WEIGHTS_FILE
from plait.adapters.peft_reading import load_peft_directory
from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError, PeerError
from plait.exporting.source import plain_name
from plait.ledger.events import ClientErased, Event, UpdateReceived
from plait.ledger.ledger import append_event, canonical, read_events
from plait.ledger.privacy import ClientWithdrawn, Withdrawn
from plait.ledger.run_view import RunView
from plait.report.samples import FILE
from plait.rounds.run_directory import RunDirectory
from plait.simulation.partitioned_data import names_in
from plait.system.files import cannot_write
from plait.trust.kit import operator_signing

_Kind = TypeVar("_Kind", ClientWithdrawn, ClientErased, Withdrawn)


@dataclass(frozen=True)
class Plan:
    """What a withdrawal will do."""

    directory: RunDirectory
    client: str
    way: str
    first_round: int
    """The first round that its update counted in; 0 if none did."""
    again: RunConfig | None
    """Settings of the run that the others train in, in `out`; None where no one trains again."""
    out: Path
    estimate: str
    """What it will take, in words."""
    descendants: tuple[Path, ...]
    """Directories of adapters that were made from the old one."""


def plan_of(
    directory: RunDirectory,
    settings: RunConfig,
    client: str,
    *,
    out: Path | None = None,
    among: Sequence[Path] = (),
) -> Plan:
    """What withdrawing a client from a finished run takes; changes nothing.

    Args:
        out: directory of the run without it; by default beside the old one.
        among: folders of further adapters that may be made from the old one, besides the run's own.

    Raises:
        ConfigError: the run is not finished, the client never took part, or it was the only one.
        PeerError: the ledger is broken.
    """
    events, path = read_events(directory.ledger), directory.path.resolve()
    view = RunView.of(events)
    if view.end is None:
        raise ConfigError(f"'{directory.path}' is not finished; cancel it, or wait for its end")
    if client not in view.clients:
        known = ", ".join(sorted(view.clients))[:200]
        raise ConfigError(f"'{client}' never took part in '{directory.path}', expected one of {known}")
    if len(view.clients) == 1:
        raise ConfigError(
            f"'{client}' is the only client of '{directory.path}': nothing is left without it; remove the run"
        )
    if "," in client:
        raise ConfigError(f"client '{client}' has a comma in its name: client names must not contain commas")
    rounds = (each.round for each in events if isinstance(each, UpdateReceived) and each.client == client)
    first, place = min(rounds, default=0), out or path.with_name(f"{path.name}-without-{plain_name(client)}")
    descendants = _descendants(directory, [path.parent, *among])
    if settings.dp == "client":
        return Plan(directory, client, "promised", first, None, place, _promise(view), descendants)
    again = _without(settings, client, view, place)
    return Plan(directory, client, "exact", first, again, place, _estimate(view, client), descendants)


def _without(settings: RunConfig, client: str, view: RunView, out: Path) -> RunConfig:
    left = len(view.clients) - 1
    # What was derived from the clients is derived again; shares stay as they were.
    open_again = set(view.start.derived) - {"partition"}
    table = {key: value for key, value in settings.to_table().items() if key not in open_again} | {
        "clients": left,
        "clients-per-round": min(settings.clients_per_round, left),
        "without-clients": ",".join([*names_in(settings), client]),
        "publish": "",
        "callbacks": "",
        "out": str(out),
    }
    return config_from_table(table, where=f"the run without '{client}'")


def _estimate(view: RunView, client: str) -> str:
    others = [traffic for (_, name), traffic in view.traffic.items() if name != client]
    moved = sum(each.total_bytes for each in others) / 1e6
    share = (len(view.clients) - 1) / len(view.clients)
    wall_s = (view.end.wall_s or 0.0) * share if view.end else 0.0
    return (
        f"{len(view.rounds)} rounds are trained again by {len(view.clients) - 1} clients: about {moved:.1f} MB, and "
        f"{wall_s:.0f} s where they are as fast as before"
    )


def _promise(view: RunView) -> str:
    is_spent = "privacy_spent" in view.other_events
    spent = next((card.status for card in view.cards.values() if is_spent and "epsilon" in card.status), None)
    cost = f"epsilon {spent['epsilon']:.4g} at delta {spent['delta']:g}" if spent else "the run's epsilon"
    return (
        f"the run has differential privacy of clients: by {cost}, no one who sees the adapter can tell much better "
        "than by guessing whether this client took part, so no one needs to train again; the server itself saw more"
    )


def carry_out(plan: Plan, train_again: Callable[[RunConfig], None], *, kit: Path | None = None) -> Withdrawn:
    """Withdraw, from wherever an earlier attempt ended; returns the tombstone.

    Args:
        train_again: runs the others' run to its end, or goes on with it; not called if it is finished.

    Raises:
        ConfigError: the others' run is not the one planned, or the kit is not an operator's.
        PlaitError: why the others' run stopped; the same call goes on with it.
    """
    directory, client = plan.directory, plan.client
    signer = operator_signing(kit) if kit else None
    events = read_events(directory.ledger)
    if found := _of_client(events, Withdrawn, client):
        return found
    if not _of_client(events, ClientWithdrawn, client):
        append_event(directory.ledger, ClientWithdrawn(client=client, first_round=plan.first_round, way=plan.way))
    adapter = run = ""
    if plan.again is not None:
        directory.hold_back(f"'{client}' has withdrawn; the adapter without it is that of '{plan.out}'")
        made = RunDirectory(plan.out)
        if not (made.has_started and RunView.after(read_events(made.ledger)).finished):
            train_again(plan.again)
        adapter, run = _made(made, plan)
    if not _of_client(events, ClientErased, client):
        append_event(directory.ledger, ClientErased(client=client))
    erased = _erased(directory, client)
    old = RunView.of(events).start.run
    tombstone = Withdrawn(client=client, way=plan.way, adapter=adapter, run=run, erased=erased)
    if signer:
        tombstone = tombstone.model_copy(update=signer(said_of(old, tombstone)))
    append_event(directory.ledger, tombstone)
    return tombstone


def _erased(directory: RunDirectory, client: str) -> tuple[str, ...]:
    """Remove what is kept of a client, and what its updates follow from; returns the files, as paths within the run.

    An update follows from the adapters before and after its round and the others' updates, under noise with its key.
    """
    own = (directory.client_memory(client), directory.path / "personalized" / plain_name(client))
    of_all = (directory.path / "spool", directory.checkpoints, directory.noise_key, directory.path / FILE)
    found = list[str]()
    for place in (*own, *of_all):
        files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
        found += [str(file.relative_to(directory.path)) for file in files if file.is_file()]
        try:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(place, error, doing="remove") from error
    return tuple(found)


def said_of(old: str, tombstone: Withdrawn) -> bytes:
    """What an operator signs of a tombstone."""
    return canonical({"of": old, **tombstone.model_dump(include={"adapter", "client", "run", "way"})})


def _made(made: RunDirectory, plan: Plan) -> tuple[str, str]:
    """Digest and run id of the adapter without the client, once its run is what was planned."""
    view = RunView.of(read_events(made.ledger))
    if view.end is None:
        raise ConfigError(
            f"'{plan.out}' is not finished, so nothing of '{plan.client}' is erased; the same command goes on"
        )
    if plan.client in view.clients:
        raise ConfigError(f"'{plan.client}' took part in '{plan.out}', expected a run without it; nothing was erased")
    expected = (plan.again or RunConfig()).to_table()
    given = {name.replace("_", "-") for name in plan.again.model_fields_set} if plan.again else set[str]()
    for key in given - {"out", "clients-per-round", "device", "threads"}:
        if view.start.config.get(key) != expected[key]:
            raise ConfigError(f"{key} of '{plan.out}' is {view.start.config.get(key)!r}, expected {expected[key]!r}")
    return view.end.adapter, view.start.run


def _of_client(events: Sequence[Event], kind: type[_Kind], client: str) -> _Kind | None:
    found = (event for event in events if isinstance(event, kind))
    return next((event for event in found if event.client == client), None)


def _descendants(directory: RunDirectory, folders: Sequence[Path]) -> tuple[Path, ...]:
    """Adapters in these folders that name the run's own among their parents."""
    weights = directory.adapter / WEIGHTS_FILE
    if not weights.is_file():
        return ()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    found: list[Path] = []
    for file in sorted({file for folder in folders for file in folder.glob(f"*/**/{WEIGHTS_FILE}")}):
        try:
            provenance = load_peft_directory(file.parent).provenance
        except PeerError:
            continue
        if provenance and any(parent.digest == digest for parent in provenance.parents):
            found.append(file.parent)
    return tuple(found)
