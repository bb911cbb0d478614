"""One federation, from a resolved run to its published adapter: connects plait's parts and decides nothing itself.

The same over every `Channel`. Knows nothing of how a run is started and of the driver.
"""

import os
import secrets
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plait.composition import opened, way_of
from plait.config import to_toml
from plait.errors import ConfigError
from plait.exporting.publisher import Publisher
from plait.ledger.events import CombiningRule, Event, NotPublished, Plugin, Resumed, RunFinished, RunStarted, start_of
from plait.ledger.ledger import Ledger, OnEvent, read_events
from plait.ledger.run_view import PublishedAdapter, RunView, kept_in
from plait.rounds.broadcasts import StartingPoint, parents_in, starting_state
from plait.rounds.channel import Channel, StopRequest
from plait.rounds.coordinator import Coordinator, Host
from plait.rounds.memory import tidy_clients
from plait.rounds.run_directory import RunDirectory, check_sources, recorded_settings
from plait.rounds.run_plan import RunContext
from plait.rounds.run_state import RunState, initial_state, load_checkpoint, save_checkpoint
from plait.rounds.spool import largest_update
from plait.run import Run
from plait.settle import check_vouched_for
from plait.system import machine
from plait.training.device import use_threads

if TYPE_CHECKING:
    from plait.exporting.outlets import Outlets
    from plait.trust.keys import Vouch

_PARTING_S = 60.0
_Begun = tuple[RunDirectory, Ledger, RunState, Sequence[Event]]


def beginning_of(run: Run) -> StartingPoint:
    """What a run begins with: its seed alone, or the adapters that it names."""
    if not run.config.init_adapter:
        return StartingPoint()
    from plait.starting import starting_point_of

    return starting_point_of(run)


def run_federation(
    channel: Channel,
    run: Run,
    *,
    start: StartingPoint | None = None,
    superlink_data: str | None = None,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    vouch: "Vouch | None" = None,
) -> RunDirectory:
    """Run a federation to its end; if the run directory holds the same run, continue it.

    Args:
        superlink_data: what the run names as ``data`` on Flower's SuperLink; None elsewhere.
        stop: asks the run to end early; the channel looks whether it is to stop.

    Raises:
        PlaitError: the reason that the run stopped; everything received until then is on disk.
    """
    started = time.perf_counter()
    _check_driver(run, channel, vouch)
    if metrics := run.settled.plan.metrics:
        metrics.check_installed()
    machine.decompose_with_one_thread()
    config = run.config
    out = Path(config.with_out().out)
    outlets = _outlets(run, out)
    if RunDirectory(out).has_started:
        begun = _continued(run, out, on_event)
    else:
        begun = commit_opening(run, out, start or beginning_of(run), superlink_data, on_event)
    directory, ledger, state, events = begun
    master, base, parents = run.ranks.master, run.base.reference, parents_in(events)
    publisher = Publisher(directory, ledger, master, base, clients=config.clients, outlets=outlets, parents=parents)
    coordinator = _coordinator(channel, run, begun, publisher, stop or StopRequest(), vouch)
    done_before_s = RunView.of(events).worked_s
    was_done = state.round == config.rounds
    try:
        state = coordinator.run(state)
        kept = _kept(directory, ledger, state, publisher, keep=config.select)
        tidy_clients(directory.path)
        ledger.append(
            RunFinished(
                rounds=state.round,
                wall_s=round(done_before_s + time.perf_counter() - started, 3),
                peak_rss_bytes=machine.peak_rss_bytes(),
                adapter=kept.adapter,
                kept_round=kept.round,
            )
        )
        if was_done:
            _part_from(channel, config.clients)
    finally:
        ledger.close()
    return directory


def _outlets(run: Run, out: Path) -> "Outlets | None":
    """Where every round is published, if the run names places."""
    if not run.config.publish:
        return None
    from plait.exporting.outlets import Outlets

    api_key = os.environ.get("VLLM_API_KEY", "")
    return Outlets.of(run.config.publish, run=out, spec=run.ranks.master.spec, api_key=api_key)


def _check_driver(run: Run, channel: Channel, vouch: "Vouch | None") -> None:
    if vouch is None:
        check_vouched_for(run.settled)
    if run.config.has_several_devices and channel.open_ended:
        raise ConfigError(
            f"device is '{run.config.device}', a list, expected one device: the clients of a network compute on their "
            "own"
        )


def _coordinator(
    channel: Channel,
    run: Run,
    begun: _Begun,
    publisher: Publisher,
    stop: StopRequest,
    vouch: "Vouch | None",
) -> Coordinator:
    directory, ledger, _, events = begun
    way = way_of(run.settled.plan, run.config, Host(directory, events, ledger.append, vouch))
    return Coordinator(
        channel=channel,
        directory=directory,
        ledger=ledger,
        plan=run.settled.plan,
        make_aggregator=partial(run.aggregator, directory, way.folding),
        publish=publisher.publish,
        stop=stop,
        way=way,
    )


def _kept(
    directory: RunDirectory, ledger: Ledger, state: RunState, publisher: Publisher, *, keep: str
) -> PublishedAdapter:
    """The adapter that the run ends with; if it is the last round's, its card now has all figures."""
    view = RunView.of(read_events(directory.ledger))
    kept = kept_in(view, keep=keep)
    if kept is None and state.accepted_shadow:
        kept = PublishedAdapter(0, state.accepted_shadow.digest().hex())
    if kept and kept.round < state.round and state.round not in {*view.evaluations, *view.not_published}:
        ledger.append(NotPublished(round=state.round, kept=kept.round))
    if kept is None or kept.round == state.round:
        publisher.publish(state)
    return kept or PublishedAdapter(state.round, state.shadow.digest().hex())


def _part_from(channel: Channel, clients: int) -> None:
    """Wait until the clients of a server that was stopped after its last round know that the run is over."""
    end = time.monotonic() + _PARTING_S
    while channel.open_ended and len(channel.nodes(0)) < clients and (left_s := end - time.monotonic()) > 0:
        channel.wait(left_s)


def _continued(run: Run, path: Path, on_event: OnEvent) -> _Begun:
    """An existing run, if it is the same."""
    directory = RunDirectory.find(path)
    events = read_events(directory.ledger)
    if recorded_settings(directory, events).model_copy(update={"out": run.config.out}) != run.config:
        raise ConfigError(f"'{path}' holds a run with other settings (see its config.toml); give another --out")
    promised = _promised(run, directory, events=events, continues=bool(parents_in(events)))
    if RunView.after(events).finished:
        raise ConfigError(f"'{path}' holds a finished run; `plait report {path}` shows it, or give another --out")
    check_sources(events, run.settled.plugins)
    check_data(run, events)
    state = load_checkpoint(directory.checkpoints, run.ranks)
    ledger = _begin_ledger(run, directory, on_event, Resumed(round=state.round), *promised)
    return directory, ledger, state, [*events, *promised]


def commit_opening(run: Run, path: Path, start: StartingPoint, superlink_data: str | None, on_event: OnEvent) -> _Begun:
    """Begin a new run: its folder, its first checkpoint, what its parts need, such as a key, its ledger.

    Killed before the ledger's first event, there is no run, and the same command begins it anew in the same folder.
    Killed after that event, the run goes on from its first checkpoint; what it promises, and has not recorded, it
    records then.
    """
    config, ranks = run.config, run.ranks
    directory = RunDirectory.create(path, config_toml=to_toml(config))
    fresh, codec = initial_state(secrets.token_bytes(16), ranks), run.settled.plan.settings.codec
    state = starting_state(fresh, start, ranks, run.base_fingerprint, codec=codec)
    save_checkpoint(directory.checkpoints, state)
    promised = _promised(run, directory, continues=bool(start.parents))
    devices = run.devices
    ledger = _begin_ledger(
        run,
        directory,
        on_event,
        RunStarted(
            run=state.run_id.hex(),
            name=path.name,
            seed=config.seed,
            config=config.to_table(),
            derived=run.settled.derived,
            superlink_data=superlink_data,
            base=run.base_recorded,
            data=run.settled.data,
            rule=CombiningRule(name=run.rule.name, personal=run.rule.personal or ""),
            plugins=tuple(
                Plugin(kind=each.kind.value, name=each.name, sha256=each.sha256, distribution=each.distribution)
                for each in run.settled.plugins
            ),
            adapter=run.adapter_recorded,
            parents=tuple(parent.to_json() for parent in start.parents) or None,
            full_model_bytes=4 * run.base_parameters,
            versions=machine.versions(),
            machine=machine.describe(
                device=",".join(str(each.device) for each in devices),
                dtype=devices[0].dtype_name,
                threads=use_threads(config.threads, processes=len(devices)),
            ),
        ),
        *promised,
    )
    return directory, ledger, state, read_events(directory.ledger)


def _promised(run: Run, directory: RunDirectory, *, events: Sequence[Event] = (), continues: bool) -> list[Event]:
    """What a run promises and has not recorded; one that goes on is checked."""
    opening = RunContext(
        directory=directory,
        events=events,
        settings=run.settled.plan.settings,
        size=largest_update(run.rule, run.ranks.master.geometry),
        base_parameters=run.base_parameters,
        continues=continues,
    )
    return opened(run.config, opening)


def check_data(run: Run, events: Sequence[Event]) -> None:
    """Refuse to continue a run on other data than it began with."""
    first = start_of(events)
    began, now = first and first.data, run.settled.data
    if began and now and began.fingerprint != now.fingerprint:
        raise ConfigError(
            f"data '{run.config.data}' has changed since the run began: its fingerprint is {now.fingerprint[:16]} "
            f"({now.records} records), expected {began.fingerprint[:16]} ({began.records} records); put the old data "
            "back, or begin a new run with another --out"
        )


def _begin_ledger(run: Run, directory: RunDirectory, on_event: OnEvent, *begin: Event) -> Ledger:
    """The ledger with the first events of this part of the run."""
    ledger = Ledger(directory.ledger, on_event=on_event, screen=run.screen)
    try:
        for event in begin:
            ledger.append(event)
    except BaseException:
        ledger.close()
        raise
    return ledger
