"""A simulated run from its settings to its last round and its baselines; sets no signal handler, writes no report."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from plait.adapters import AdapterTask
from plait.config import RunConfig, config_from_table
from plait.data import Dataset, RecordKind
from plait.errors import ConfigError
from plait.federation import beginning_of, run_federation
from plait.ledger.ledger import OnEvent, read_events
from plait.ledger.run_view import RunView
from plait.objectives import usual_objective
from plait.report.terminal import say, status, watch
from plait.rounds.broadcasts import StartingPoint
from plait.rounds.callbacks import heard
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory
from plait.run import Run, resolve
from plait.settle import settle, settle_on_data
from plait.simulation.loaded import Loaded
from plait.simulation.partitioned_data import PartitionedData, load_partitioned
from plait.simulation.simulation import Simulation
from plait.training.bases import quiet_libraries
from plait.training.device import check_four_bits, choose_devices
from plait.training.fused.kernels import native_library
from plait.training.tokenization import check_kind
from plait.wire.codec import DECODED
from plait.wire.settings import CROSS_ENTROPY

# As a fraction of the adapters that a run starts from.
_WORTH_REPORTING = 1e-3


def prepare(
    settings: RunConfig, *, quiet: bool, dataset: Dataset | None = None, loaded: Loaded | None = None
) -> tuple[Run, PartitionedData]:
    """Fetch data and base, partition the data, and resolve the run; nothing is written before this is through."""
    if not settings.data:
        raise ConfigError(
            "data is missing; to continue a run whose clients bring their own, repeat the command that started it, "
            "with the same out"
        )
    quiet_libraries()
    devices = choose_devices(settings.device, settings.dtype)
    settled = settle(settings)
    if settled.method.quantised:
        for each in devices:
            check_four_bits(each.device.type)

    with status(f"reading and partitioning {settings.data}", quiet=quiet) as update:
        data = load_partitioned(settings, dataset, loaded=loaded, progress=update)
        hints = (_unused_replies(data.dataset.kind, settings), _mean_note(settings.loss))
        for note in filter(None, (*data.dataset.notes, *data.partition.notes, *hints)):
            say(note, quiet=quiet)
        settings = _with_clients(settings, len(data.partition.shares))
        labels = data.dataset.labels or settings.labels
        check_kind(
            data.dataset.kind, AdapterTask.CLASSIFICATION if labels else AdapterTask.CAUSAL_LM, settings.objective
        )
        found = ",".join(data.dataset.labels)
        settled = settle_on_data(settings, partition=str(data.scheme), labels=found, data=data.used)
    with status(f"looking for base {settings.base}", quiet=quiet) as update:
        run = resolve(settled, progress=update)
        if devices[0].device.type == "cpu":
            native_library(update)
    if settings.has_several_devices:
        from plait.simulation.workers import check_importable

        check_importable(run)
    return run, data


def _with_clients(settings: RunConfig, clients: int) -> RunConfig:
    """The same settings for as many clients as the data have; another setting may not go with that many."""
    if clients == settings.clients:
        return settings
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return config_from_table({**given, "clients": clients}, where=f"{clients} clients")


def _mean_note(loss: str) -> str:
    if loss == CROSS_ENTROPY:
        return ""
    from plait.training.contract import mean_note

    return mean_note(loss)


def _unused_replies(kind: RecordKind, settings: RunConfig) -> str:
    """What to tell a user whose preferences are learned as texts, unless they asked for that; empty for nothing."""
    is_chosen = not settings.learned.is_plain or "objective" in settings.model_fields_set
    if kind is not RecordKind.PREFERENCE or is_chosen or not (usual := usual_objective(kind.value)):
        return ""
    return (
        "the data are preference pairs, and objective sft learns to write the chosen replies alone; "
        f"--objective {usual} learns to prefer them to the rejected ones"
    )


def begin(run: Run, *, quiet: bool) -> StartingPoint:
    """The starting point of a new run; shows what of the given adapters is lost."""
    start = beginning_of(run)
    if start.lost > _WORTH_REPORTING:
        say(f"rank {run.config.rank} loses {start.lost:.1%} of the given adapters", quiet=quiet)
    return start


def execute(
    run: Run,
    data: PartitionedData,
    start: StartingPoint | None = None,
    *,
    quiet: bool,
    loaded: Loaded | None = None,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
) -> None:
    """Run (or continue) the rounds, then the baselines; all that is done when it raises PlaitError is on disk."""
    directory = RunDirectory(Path(run.config.out))
    simulation = Simulation(run, data.partition.shares, loaded, progress=partial(say, quiet=quiet))
    config, stop = run.config, stop or StopRequest()
    stop.heeded = True
    try:
        with ExitStack() as held:
            held.enter_context(DECODED.kept())
            hear = held.enter_context(heard(config.callbacks, directory, stop, on_event))
            if not (directory.has_started and RunView.after(read_events(directory.ledger)).finished):
                shown = {"rounds": config.rounds, "cohort": config.cohort_size, "evaluators": config.evaluators}
                with watch(directory.ledger, **shown, quiet=quiet):
                    channel, vouch = simulation.channel(stop), simulation.vouch
                    run_federation(channel, run, start=start, on_event=hear, stop=stop, vouch=vouch)
            simulation.close()
            if config.references:
                from plait.simulation.baselines import add_references

                with status(f"training the baselines: {', '.join(config.references)}", quiet=quiet) as update:
                    add_references(directory, run, simulation, on_event=hear, stop=stop, progress=update)
    finally:
        simulation.close()
        stop.heeded = False
