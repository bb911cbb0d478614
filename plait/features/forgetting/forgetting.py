"""What a later adapter has forgotten of earlier runs: its loss on their clients' held-out data, against their own.

Simulated runs only, because a federation's server has no data: an earlier run's settings determine its held-out
sequences, and its ledger has the fingerprint of the data. Forgetting is the loss of the later adapter less that of the
earlier run's own, sequence by sequence (Chaudhry et al., arXiv 1801.10112, on losses in the place of accuracies): below
zero where the earlier run's data are known better than before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.adapters import AdapterSpec, AdapterState, Json
from plait.adapters.peft_reading import PeftAdapter, load_peft_directory
from plait.api.received import admitted_settings, keys_of_features
from plait.api.turns import TURN
from plait.errors import BaseMismatchError, ConfigError
from plait.progress import status
from plait.rounds.evaluation import ClientLoss, SequenceLosses, mean_loss
from plait.rounds.events import MeanScore
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory

if TYPE_CHECKING:
    from plait.simulation.simulation import Simulation
    from plait.wire.settings import Settings


# Nothing is trained or published.
_UNUSED = ("publish", "callbacks")


@dataclass(frozen=True)
class Forgotten:
    """Mean losses on the held-out data of an earlier run's clients.

    Attributes:
        run: the earlier run's directory, as it was given.
        base: of the base alone.
        then: of the earlier run's own adapter; `change` is since the base.
        now: of the later adapter; `change` is since `then`, so above zero it was forgotten.
    """

    run: str
    base: MeanScore
    then: MeanScore
    now: MeanScore

    @property
    def figures(self) -> Mapping[str, Json]:
        """For scripts; unknown figures are left out."""
        found: dict[str, Json] = {
            "base_loss": self.base.loss,
            "own_loss": self.then.loss,
            "loss": self.now.loss,
            "forgetting": self.now.change,
            "forgetting_by_client": {name: score.change for name, score in self.now.by_client.items()},
        }
        if self.now.change is not None and self.now.change_margin is not None:
            low, high = self.now.change - self.now.change_margin, self.now.change + self.now.change_margin
            found["forgetting_interval"] = [low, high]
        return found


def forgetting(
    adapter: Path,
    earlier: Sequence[Path],
    *,
    allowed: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = False,
) -> tuple[Forgotten, ...]:
    """Measure an adapter on the held-out data of earlier runs.

    Args:
        adapter: a PEFT directory or a run directory.
        earlier: directories of simulated runs on the same base.
        allowed: what of an earlier run that began elsewhere may be used, such as ``data=my.jsonl``.
        device: to compute on.
        dtype: of the frozen base.
        quiet: whether to show no progress.

    Raises:
        ConfigError: there is no such run, it has no adapter, its data have changed, or it has another task.
        BaseMismatchError: an earlier run has another base.
        PlaitError: its data or its base cannot be read.
    """
    later = load_peft_directory(_folder(adapter))
    found: list[Forgotten] = []
    for run in earlier:
        directory = RunDirectory.find(run)
        own = load_peft_directory(_folder(run))
        settings = admitted_settings(directory, allowed, without=(*_UNUSED, *keys_of_features()))
        settings = settings.model_copy(update={"device": device, "dtype": dtype})
        with status("loading libraries", quiet=quiet):
            from plait.federation import check_data
            from plait.simulation.execution import prepare
            from plait.simulation.simulation import Simulation
        with TURN:
            resolved, data = prepare(settings, quiet=quiet)
            check_data(resolved, read_events(directory.ledger))
            _check(adapter, later, run, own, resolved.base.reference.fingerprint)
            simulation = Simulation(resolved, data)
            shared = resolved.settled.plan.settings
            with status(f"evaluating on the held-out data of {run}", quiet=quiet):
                then = _measured(simulation, own, settings.clients, shared)
                base = _measured(simulation, own, settings.clients, shared, alone=True)
                now = _measured(simulation, later, settings.clients, shared)
        found.append(
            Forgotten(
                str(run),
                mean_loss({name: losses.since(None) for name, losses in base.items()}),
                mean_loss(_since(then, base)),
                mean_loss(_since(now, then)),
            )
        )
    return tuple(found)


def _folder(place: Path) -> Path:
    return place / "adapter" if (place / "adapter").is_dir() else place


def _check(adapter: Path, later: PeftAdapter, run: Path, own: PeftAdapter, fingerprint: str) -> None:
    for place, loaded in ((adapter, later), (run, own)):
        if loaded.base_fingerprint not in (None, fingerprint):
            raise BaseMismatchError(
                f"adapter '{place}' was trained on base {str(loaded.base_fingerprint)[:16]}, expected "
                f"{fingerprint[:16]}, the base of run '{run}'"
            )
    one, other = later.spec(), own.spec()
    if (one.task, one.labels) != (other.task, other.labels):
        raise ConfigError(
            f"adapter '{adapter}' and run '{run}' have different tasks or classes, expected the same ones"
        )


def _measured(
    simulation: Simulation, adapter: PeftAdapter, clients: int, settings: Settings, *, alone: bool = False
) -> dict[str, SequenceLosses]:
    """Losses of every client's held-out sequences with an adapter, or of the base alone without it."""
    spec: AdapterSpec = adapter.spec()
    model = simulation.base.carrying(spec, AdapterState.from_tensors(spec.layout, adapter.tensors))
    with model.disable_adapter() if alone else nullcontext():
        return {
            simulation.name(index): simulation.model(index).measure_losses(model, spec, settings)
            for index in range(clients)
        }


def _since(after: Mapping[str, SequenceLosses], before: Mapping[str, SequenceLosses]) -> dict[str, ClientLoss]:
    return {name: losses.since(before[name]) for name, losses in after.items()}
