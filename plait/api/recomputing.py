"""A finished run computed again from its kept updates, and what its directory publishes compared with its record."""

from collections.abc import Callable, Sequence
from functools import cache, partial

from plait.adapters.peft_reading import load_peft_directory
from plait.api.received import UNUSED, admitted_settings
from plait.composition import way_of
from plait.config import RunConfig
from plait.errors import ConfigError, PeerError
from plait.federation import beginning_of
from plait.ledger.events import Event, start_of
from plait.ledger.run_view import RunView, kept_in
from plait.plugins import Kind, source_of
from plait.rounds.audit import Verified, replay
from plait.rounds.broadcasts import parents_in, starting_state
from plait.rounds.coordinator import CannotRecomputeError, Host
from plait.rounds.run_directory import RunDirectory, check_sources
from plait.rounds.run_state import finished_in_checkpoint, initial_state, load_checkpoint
from plait.run import Run, resolve
from plait.settle import settle
from plait.training.peft_adapter import servable

# Events after which another adapter is published.
_REPLACES = ("evaluated", "step_taken_back")


def checked(
    directory: RunDirectory, events: list[Event], settings: RunConfig, allow: Sequence[str]
) -> tuple[Verified, ...]:
    """What a run's plug-ins, its adapter and, where updates were kept, its rounds are found to be."""
    plugins = _check_plugins(events)

    @cache
    def resolved() -> Run:
        return resolve(settle(admitted_settings(directory, allow, without=("data", *UNUSED))))

    adapter = _check_adapter(directory, events, settings, resolved)
    replayed, missing = None, "" if settings.keep_updates else "updates not kept"
    view = RunView.of(events)
    if view.erased:
        missing = f"updates of {', '.join(map(repr, view.erased))} were erased"
    if not missing:
        try:
            replayed = _recomputed(directory, events, resolved())
        except CannotRecomputeError as error:
            missing = str(error)
    summary = f"not recomputed ({missing})" if replayed is None else f"{replayed} recomputed, bit for bit"
    return (
        Verified("adapter", adapter),
        *(Verified("plug-in", f"{name}: {how}") for name, how in plugins.items()),
        Verified("rounds", summary, {"rounds": len(view.rounds), "replayed": replayed, "plugins": plugins}),
    )


def _recomputed(directory: RunDirectory, events: Sequence[Event], run: Run) -> int:
    """Recompute every finished round, and compare; the number of rounds with the same adapter, bit for bit.

    Raises:
        CannotRecomputeError: runs of this kind cannot be.
        PeerError: a round gives another result, or the run started from what is not there any more.
    """
    plan = run.settled.plan

    def refuse(event: Event) -> None:
        raise PeerError(f"'{event.event}' would be recorded, expected what the ledger has already")

    way = way_of(plan, run.config, Host(directory, events, refuse, recomputes=True))
    start = beginning_of(run)
    if start.parents != parents_in(events):
        raise PeerError("an adapter that the run started from has changed since, expected those that the ledger names")
    fresh = initial_state(bytes.fromhex(RunView.of(events).start.run), run.ranks)
    state = starting_state(fresh, start, run.ranks, run.base_fingerprint, codec=plan.settings.codec)
    aggregator = partial(run.aggregator, directory, way.folding)
    return replay(events, state, aggregator, arriving=way.arriving, take_back=plan.watch.take_back)


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
    digest = load_peft_directory(directory.adapter).state.digest().hex()
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
    state = load_checkpoint(directory.checkpoints, run.ranks)
    accepted = state.accepted_shadow
    shadow = accepted if accepted and kept in ("", accepted.digest().hex()) else state.shadow
    _, adapter = servable(run.ranks.master.spec, shadow)
    return shadow.digest().hex(), adapter.digest().hex()
