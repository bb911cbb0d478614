"""``plait verify``: whether a run's record is complete and true, also by recomputing rounds whose updates were kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from plait.adapters.peft_reading import load_peft_directory
from plait.api.received import UNUSED, admitted_settings
from plait.cli.options import Allow
from plait.cli.output import RunOrNewest, print_json, print_text, run_or_newest
from plait.cli.privacy import verifies
from plait.config import RunConfig
from plait.errors import ConfigError, PeerError
from plait.ledger.events import Event, start_of
from plait.ledger.ledger import read_events, torn_bytes
from plait.ledger.run_view import RunView, kept_in
from plait.plugins import Kind, source_of
from plait.report.progress import status
from plait.rounds.audit import Verified, check_signatures
from plait.rounds.coordinator import CannotRecomputeError
from plait.rounds.run_directory import RunDirectory, check_sources, recorded_settings
from plait.rounds.run_state import damage_of, finished_in_checkpoint, load_checkpoint
from plait.settings.traits import Trait
from plait.settle import settle

if TYPE_CHECKING:
    from plait.run import Run

_NOT_THERE = "not in the ledger: this run's server may not look at single updates"
# Events after which another adapter is published.
_REPLACES = ("evaluated", "step_taken_back")


def verify(
    named: RunOrNewest = None,
    allow: Allow = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a run's ledger, signatures, checkpoints and adapter; recompute its rounds if their updates were kept.

    Example: plait verify runs/first
    """
    run = run_or_newest(named, quiet=json_output)
    directory = RunDirectory.find(run)
    with status(f"checking {run}", quiet=json_output):
        events = read_events(directory.ledger)
        torn = torn_bytes(directory.ledger)
        settings = recorded_settings(directory, events)
        hidden = Trait.SINGLE_UPDATES in settings.missing
        signed = 0 if hidden else check_signatures(events)
        promised = verifies(events)
        found = [promised] if promised else []
        checkpoints = damage_of(directory.checkpoints)
        for name, damage in checkpoints.items():
            if damage:
                raise PeerError(f"checkpoint '{name}' of '{run}' is damaged: {damage}")
        own = _checked(directory, events, settings, allow or ())
    if json_output:
        figures = {name: figure for each in (*own, *found) for name, figure in each.figures.items()}
        print_json({"events": len(events), "torn_bytes": torn, "signatures": signed, **figures, "ok": True})
        return
    cut = f"; a torn last line of {torn} bytes is ignored" if torn else ""
    none = _NOT_THERE if hidden else "none: clients had no keys"
    if settings.data and not hidden:
        none = "not applicable (simulation)"
    lines = (
        ("ledger", f"{len(events)} events, chain intact{cut}"),
        ("checkpoints", f"{', '.join(checkpoints) or 'none'} intact"),
        ("signatures", f"{signed} updates, each by its own client" if signed else none),
        *((each.name, each.text) for each in (*found, *own)),
    )
    for name, text in lines:
        print_text(f"{name:<12} {text}", indent=13)


def _checked(
    directory: RunDirectory, events: list[Event], settings: RunConfig, allow: Sequence[str]
) -> tuple[Verified, ...]:
    from plait.api.recomputing import recomputed  # brings torch along

    plugins = _check_plugins(events)

    @cache
    def resolved() -> Run:
        from plait.run import resolve

        return resolve(settle(admitted_settings(directory, allow, without=("data", *UNUSED))))

    adapter = _check_adapter(directory, events, settings, resolved)
    replayed, missing = None, "" if settings.keep_updates else "updates not kept"
    view = RunView.of(events)
    if view.erased:
        missing = f"updates of {', '.join(map(repr, view.erased))} were erased"
    if not missing:
        try:
            replayed = recomputed(directory, events, resolved())
        except CannotRecomputeError as error:
            missing = str(error)
    summary = f"not recomputed ({missing})" if replayed is None else f"{replayed} recomputed, bit for bit"
    return (
        Verified("adapter", adapter),
        *(Verified("plug-in", f"{name}: {how}") for name, how in plugins.items()),
        Verified("rounds", summary, {"rounds": len(view.rounds), "replayed": replayed, "plugins": plugins}),
    )


def _check_plugins(events: list[Event]) -> dict[str, str]:
    """Each of the run's plug-ins, and whether its source is here; none is imported."""
    found: dict[str, str] = {}
    start = start_of(events)
    for plugin in start.plugins if start else ():
        try:
            here = source_of(Kind(plugin.kind), plugin.name)
        except (ConfigError, ValueError):
            found[f"{plugin.kind} {plugin.name}"] = "not here, so its source is not checked"
            continue
        check_sources(events, [here])
        found[f"{plugin.kind} {plugin.name}"] = f"source {here.sha256[:16]}, as when the run began"
    return found


def _check_adapter(
    directory: RunDirectory, events: list[Event], settings: RunConfig, resolved: Callable[[], Run]
) -> str:
    guards = settings.select != "last"
    view = RunView.of(events)
    kept = kept_in(view, keep=settings.select)
    if kept is None and not directory.adapter.exists():
        return "none yet; no round has finished"
    digest = load_peft_directory(directory.adapter).digest
    if kept and digest == kept.adapter:
        return f"that of round {kept.round}"
    # The run was killed between publishing a round's adapter and recording it in the ledger, or the other way round.
    last, _ = finished_in_checkpoint(directory.checkpoints)
    finished = kept.round if kept else 0
    if not guards and last and (last.adapter, last.round) == (digest, finished + 1):
        return f"that of round {finished + 1}, which `plait resume` will finish"
    newest = max(number for number, event in enumerate(events) if number == 0 or event.event in _REPLACES)
    before = kept_in(RunView.after(events[:newest]), keep=settings.select)
    if before and digest == before.adapter and not view.finished:
        return f"that of round {before.round}, which `plait resume` will replace"
    published = _published(directory, resolved(), kept.adapter if kept else "") if kept or guards else ("", "")
    if kept is None and digest in published:
        return "that of round 0; the base was not evaluated"
    if kept and published[1] != published[0]:
        if published == (kept.adapter, digest):
            return f"that of round {kept.round}, in plain PEFT form"
        if guards and published[0] != kept.adapter:
            return f"not checked: the plain PEFT form of round {kept.round}, whose checkpoint is gone"
    expected = kept.adapter[:16] if kept else "none before the first round is finished"
    raise PeerError(f"adapter in '{directory.adapter}' is {digest[:16]}, expected {expected}")


def _published(directory: RunDirectory, run: Run, kept: str) -> tuple[str, str]:
    """Digests of an adapter of the newest checkpoint, the accepted one if that is kept, and of its published form."""
    from plait.training.peft_adapter import servable

    state = load_checkpoint(directory.checkpoints, run.ranks)
    accepted = state.accepted_shadow
    shadow = accepted if accepted and kept in ("", accepted.digest().hex()) else state.shadow
    _, adapter = servable(run.ranks.master.spec, shadow)
    return shadow.digest().hex(), adapter.digest().hex()
