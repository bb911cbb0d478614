"""What a sweep would cost: bytes as `plait estimate` has them, and time from two measured local steps.

Two steps of one client are trained per kind of training (base, method, rank, batch and so on), and nothing is written.
Time counts training and evaluation, one process; aggregation, encoding and starting come on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.names import check_names
from plait.config import config_from_table
from plait.errors import PlaitError
from plait.features.studies.grid import Cell, Settings, read_grid
from plait.plugins import admit
from plait.report.table import Table
from plait.report.wording import NOTHING, bytes_text, duration_text, plural
from plait.rounds.local_model import TrainJob
from plait.run import Run
from plait.simulation.execution import prepare
from plait.simulation.loaded import Loaded
from plait.simulation.partitioned_data import PartitionedData
from plait.simulation.planned_run import change_of, plan_run
from plait.simulation.simulation import Simulation
from plait.sizes import message_sizes

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along

# An evaluated sequence is one forward pass, a trained one about three.
_EVALUATION = 1 / 3
_DECIDES_SPEED = (
    "base", "data", "method", "rank", "rank_pattern", "target_modules", "bias", "dropout",
    "batch_size", "gradient_accumulation_steps", "seq_len", "device", "dtype", "threads", "trainer", "correction",
    "objective",
)  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """The expected cost of one run.

    Attributes:
        sent_bytes: in both directions; None for a run that cannot be.
        wall_s: seconds.
        error: why it cannot be; empty if it can.
    """

    cell: Cell
    sent_bytes: int | None = None
    wall_s: float | None = None
    error: str = ""

    def to_json(self) -> dict[str, Json]:
        """Under stable keys."""
        return {"run": self.cell.name, "bytes": self.sent_bytes, "wall_s": self.wall_s, "error": self.error}


def forecast(
    grid: str | Path | Settings, *, given: Settings | None = None, seeds: Sequence[int] = ()
) -> tuple[Forecast, ...]:
    """The expected cost of every run of a grid; the arguments are those of `plait.features.studies.grid.read_grid`.

    Raises:
        ConfigError: the grid is not valid.
    """
    loaded, step_s = Loaded(), dict[object, float]()
    found: list[Forecast] = []
    for cell in read_grid(grid, given=given, seeds=seeds).cells:
        try:
            config = config_from_table(cell.settings, where=cell.name)
            admit(*config.plugins)
            check_names(config)
            run, data = prepare(config, quiet=True, loaded=loaded)
            kind = tuple(vars(config).get(name) for name in _DECIDES_SPEED)
            if kind not in step_s:
                step_s[kind] = _measured(run, data, loaded)
            found.append(Forecast(cell, _sent_bytes(run), _wall_s(run, step_s[kind])))
        except PlaitError as error:
            found.append(Forecast(cell, error=str(error)))
    return tuple(found)


def forecast_table(found: Sequence[Forecast]) -> Table:
    """One row per run, and the sum."""
    rows = [
        (
            each.cell.label,
            f"{each.cell.seed}",
            NOTHING if each.sent_bytes is None else f"about {bytes_text(each.sent_bytes)}",
            NOTHING if each.wall_s is None else f"about {duration_text(each.wall_s)}",
            *([each.error] if any(one.error for one in found) else []),
        )
        for each in found
    ]
    sent = sum(each.sent_bytes or 0 for each in found)
    wall_s = sum(each.wall_s or 0.0 for each in found)
    headings = ("run", "seed", "sent", "time", *(["refused"] if len(rows[0]) > 4 else []))
    note = (
        f"{plural(len(found), 'run')}: about {bytes_text(sent)} and {duration_text(wall_s)} of training and evaluation."
    )
    return Table("What would run", headings, tuple(rows), note, text_columns=(0, 4))


def _measured(run: Run, data: PartitionedData, loaded: Loaded) -> float:
    """Seconds of a local step: the second of two, as the first one warms up."""
    model, adapter = Simulation(run, data, loaded).model(0), run.ranks.master
    settings = replace(run.settled.plan.settings, local_steps=1, carry_moments=False)
    job = TrainJob(model, adapter.spec, settings, adapter.initial, adapter.initial)
    model.train(job)
    return model.train(job).seconds


def _evaluating_clients(run: Run) -> int:
    """In each evaluation; losses of a run with differential privacy stay with the clients."""
    config = run.config
    return 0 if not config.evaluates else min(config.eval_clients or config.clients, config.clients)


def _wall_s(run: Run, step_s: float) -> float:
    config = run.config
    # Entries that name one device share it.
    step_s /= min(len({each.device for each in run.devices}), config.cohort_size)
    trained_s = config.rounds * config.cohort_size * config.local_steps * step_s
    evaluations = 1 + -(-config.rounds // config.eval_every)
    sequences = _evaluating_clients(run) * config.max_held_out_sequences * evaluations
    return trained_s + sequences * _EVALUATION * step_s / (config.batch_size * config.gradient_accumulation_steps)


def _sent_bytes(run: Run) -> int:
    settled, evaluates = run.settled, run.config.evaluates
    sizes = message_sizes(settled, run.ranks.master.spec, evaluates=evaluates)
    planned = plan_run(settled.plan, sizes, evaluates=evaluates, change=change_of(run.config))
    return planned.uplink_bytes + planned.downlink_bytes
