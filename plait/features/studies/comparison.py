"""Compare runs: losses and bytes, the Pareto front, and paired differences with intervals.

Reads ledgers and nothing else. Runs that differ only in the seed form one group, with means over seeds. Losses are in
nats, margins are half of a 95 % interval. Losses of runs on different bases or data are shown and never subtracted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from plait.errors import ConfigError
from plait.features.studies.difference import Difference, difference
from plait.features.studies.interval import margin_of_mean
from plait.features.studies.notes import notes_on
from plait.features.studies.runs import Group, StudiedRun, grouped
from plait.frames import COUNT, NUMBER, TEXT, frame_of, rounds, view_of
from plait.rounds.events import MeanScore

if TYPE_CHECKING:
    import pandas as pd

    from plait.adapters import Json  # brings numpy along
    from plait.report.theme import Plot

Row: TypeAlias = "Mapping[str, Json]"

RUN_COLUMNS: Mapping[str, str] = {
    "run": TEXT,
    "group": TEXT,
    "seed": COUNT,
    "finished": "bool",
    "rounds": COUNT,
    "base_loss": NUMBER,
    "loss": NUMBER,
    "loss_margin": NUMBER,
    "change": NUMBER,
    "change_margin": NUMBER,
    "personalized_loss": NUMBER,
    "accuracy": NUMBER,
    "bytes": COUNT,
    "uplink_bytes": COUNT,
    "downlink_bytes": COUNT,
    "wall_s": NUMBER,
    "path": TEXT,
}
"""The columns of `Comparison.frame` and their types."""

_MOST_NAMED = 8
_GROUPS: Mapping[str, str] = {
    "group": TEXT,
    "seeds": COUNT,
    "finished": "bool",
    "loss": NUMBER,
    "loss_margin": NUMBER,
    "best_loss": NUMBER,
    "change": NUMBER,
    "personalized_loss": NUMBER,
    "accuracy": NUMBER,
    "bytes": NUMBER,
    "wall_s": NUMBER,
    "pareto": "bool",
}
_DIFFERENCES: Mapping[str, str] = {
    "group": TEXT,
    "baseline": TEXT,
    "difference": NUMBER,
    "margin": NUMBER,
    "paired_over": TEXT,
    "pairs": COUNT,
}


@dataclass(frozen=True)
class GroupFigures:
    """The means of a group over its seeds.

    Attributes:
        loss: held-out loss; None if nothing has been evaluated.
        loss_margin: over seeds, or of one run over its held-out sequences.
        best_loss: the lowest of its runs.
        change: of the loss since the start.
        personalized_loss: of the clients' personalized adapters; None where there are none.
        accuracy: for classification.
        bytes: in both directions.
        wall_s: working time in seconds.
    """

    loss: float | None
    loss_margin: float | None
    best_loss: float | None
    change: float | None
    personalized_loss: float | None
    accuracy: float | None
    bytes: float
    wall_s: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Groups of runs side by side.

    Attributes:
        groups: in the order given.
        baseline: the group that the others are compared with.
    """

    groups: tuple[Group, ...]
    baseline: Group

    def __repr__(self) -> str:
        names = [group.label for group in self.groups]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"<plait.Comparison of {', '.join(names[:_MOST_NAMED])}{more}>"

    @property
    def runs(self) -> tuple[StudiedRun, ...]:
        """All runs, group by group."""
        return tuple(run for group in self.groups for run in group.runs)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per run: losses and margins in nats, bytes, working time in seconds; what is unknown is NaN.

        ``loss`` is of the published adapter (the newest evaluation of an unfinished run), ``base_loss`` of the start,
        ``change`` the difference of the two on the same sequences.
        """
        return frame_of(self._run_rows(), RUN_COLUMNS)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per group of runs that differ in the seed only: means over seeds.

        ``loss_margin`` is over seeds, or over the held-out sequences of a single run. ``pareto`` marks groups that no
        other group beats in both loss and bytes.
        """
        return frame_of(self._group_rows(), _GROUPS)

    @property
    def differences(self) -> pd.DataFrame:
        """One row per group other than the baseline: its loss minus that of the baseline, in nats.

        ``paired_over`` is ``seeds`` (with their number in ``pairs``), ``sequences`` or ``nothing``.
        """
        return frame_of(self._difference_rows(), _DIFFERENCES)

    @property
    def curves(self) -> pd.DataFrame:
        """One row per run and evaluation: the columns of `plait.frames.rounds`, with run, group and seed."""
        import pandas as pd

        parts = [
            rounds(run.view).assign(run=run.name, group=group.label, seed=run.seed)
            for group in self.groups
            for run in group.runs
        ]
        return pd.concat(parts, ignore_index=True)

    def plot(self, y: str = "loss", *, x: str = "bytes") -> Plot:
        """A line per run, a colour per group.

        Args:
            y: ``loss``, ``change`` or ``accuracy``, of the shared adapter.
            x: ``bytes`` sent so far, or ``round``.

        Returns:
            A matplotlib figure, which a notebook shows; ``savefig`` writes it.

        Raises:
            ConfigError: there is no such figure.
        """
        from plait.features.studies.plot import plot
        from plait.report.theme import LIGHT

        return plot(self, y, x, LIGHT)

    def page(self) -> str:
        """The comparison as one self-contained HTML page."""
        from plait.features.studies.page import render_page

        return render_page(self)

    def to_json(self) -> dict[str, Json]:
        """All figures under stable keys; what is unknown is None."""
        return {
            "runs": [dict(row) for row in self._run_rows()],
            "groups": [dict(row) for row in self._group_rows()],
            "differences": [dict(row) for row in self._difference_rows()],
            "notes": list(self.notes),
        }

    def figures_of(self, group: Group) -> GroupFigures:
        """The means of a group."""
        counted = group.counted or group.runs
        finals = [run.final for run in counted if run.final]
        losses = [final.loss for final in finals]
        margin = margin_of_mean(losses) if len(losses) > 1 else finals[0].loss_margin if finals else None
        personalized = [run.personalized for run in counted if run.personalized]
        return GroupFigures(
            loss=_mean(losses),
            loss_margin=margin,
            best_loss=min(losses, default=None),
            change=_mean_of(finals, lambda score: score.change),
            personalized_loss=_mean_of(personalized, lambda score: score.loss),
            accuracy=_mean_of(finals, lambda score: score.accuracy),
            bytes=statistics.fmean(run.view.sent.total_bytes for run in counted),
            wall_s=statistics.fmean(run.view.wall_s for run in counted),
        )

    @property
    def unbeaten(self) -> tuple[Group, ...]:
        """The Pareto front of the finished groups: no other has less loss or fewer bytes without more of the other."""
        points = {
            group: (figures.loss, figures.bytes)
            for group in self.groups
            if group.is_finished and (figures := self.figures_of(group)).loss is not None
        }
        return tuple(
            group
            for group, (loss, sent) in points.items()
            if not any(
                other.runs[0].task == group.runs[0].task
                and other_loss <= loss
                and other_sent <= sent
                and (other_loss, other_sent) != (loss, sent)
                for other, (other_loss, other_sent) in points.items()
            )
        )

    def difference_of(self, group: Group) -> Difference | None:
        """The loss of a group minus that of the baseline."""
        return difference(group, self.baseline)

    @property
    def is_classification(self) -> bool:
        """Whether all runs have accuracies."""
        return all(run.view.accuracy_name for run in self.runs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before comparing, in sentences."""
        return notes_on(self.groups, self.baseline)

    def _run_rows(self) -> Iterator[Row]:
        for group in self.groups:
            for run in group.runs:
                yield {"group": group.label, **figures_of_run(run)}

    def _group_rows(self) -> Iterator[Row]:
        unbeaten = self.unbeaten
        for group in self.groups:
            yield {
                "group": group.label,
                "seeds": len(group.counted),
                "finished": group.is_finished,
                **vars(self.figures_of(group)),
                "pareto": group in unbeaten,
            }

    def _difference_rows(self) -> Iterator[Row]:
        for group in self.groups:
            found = None if group is self.baseline else self.difference_of(group)
            if found:
                yield {
                    "group": group.label,
                    "baseline": self.baseline.label,
                    "difference": found.mean,
                    "margin": found.margin,
                    "paired_over": found.pairing.value,
                    "pairs": found.pairs,
                }


def figures_of_run(run: StudiedRun) -> dict[str, Json]:
    """What a run measured, under the columns of `Comparison.frame`; what is unknown is None."""
    view, final, base, own = run.view, run.final, run.view.base_evaluation, run.personalized
    return {
        "run": run.name,
        "seed": run.seed,
        "finished": view.finished,
        "rounds": len(view.rounds),
        "base_loss": base.loss if base else None,
        "loss": final.loss if final else None,
        "loss_margin": final.loss_margin if final else None,
        "change": final.change if final else None,
        "change_margin": final.change_margin if final else None,
        "personalized_loss": own.loss if own else None,
        "accuracy": final.accuracy if final else None,
        "bytes": view.sent.total_bytes,
        "uplink_bytes": view.sent.uplink_bytes,
        "downlink_bytes": view.sent.downlink_bytes,
        "wall_s": view.wall_s,
        "path": str(run.path),
    }


def compare(*runs: str | PathLike[str], baseline: str | PathLike[str] | None = None) -> Comparison:
    """Compare runs by their ledgers.

    Args:
        runs: run directories, or results such as `plait.simulate` returns.
        baseline: the run whose group the others are compared with; by default the first.

    Raises:
        ConfigError: there is no run, or no run at one of these paths.
        PeerError: a ledger is broken.
    """
    return comparison_of([*map(Path, runs)], baseline=None if baseline is None else Path(baseline))


def comparison_of(
    paths: Sequence[Path], *, labels: Mapping[Path, str] | None = None, baseline: Path | None = None
) -> Comparison:
    """Compare the runs in these directories.

    Args:
        paths: of the runs; a directory given twice counts once.
        labels: by directory, one for all runs that differ only in the seed; from the settings by default.
        baseline: the run whose group the others are compared with; by default the first.

    Raises:
        ConfigError: there is no run, or no run at one of these paths.
        PeerError: a ledger is broken.
    """
    different: dict[Path, Path] = {}
    for path in [*paths, *([baseline] if baseline else [])]:
        different.setdefault(path.resolve(), path)
    if not different:
        raise ConfigError("no run to compare, expected one directory of a run or more")
    found = {place: StudiedRun(path, view_of(path)) for place, path in different.items()}
    groups = grouped([*found.values()], labels)
    first = found[baseline.resolve()] if baseline else groups[0].runs[0]
    return Comparison(groups, next(group for group in groups if first in group.runs))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _mean_of(scores: Sequence[MeanScore], figure: Callable[[MeanScore], float | None]) -> float | None:
    """The mean of a figure that all of these have; None if one lacks it."""
    values = [figure(score) for score in scores]
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
