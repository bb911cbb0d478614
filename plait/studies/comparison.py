"""Compare runs: held-out losses and bytes, and paired differences with intervals.

Reads ledgers and nothing else. Runs that differ only in the seed form one group, with means over seeds. Losses are in
nats, margins are half of a 95 % interval. Losses of runs on different bases or data are shown and never subtracted.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.frames import COUNT, NUMBER, TEXT, frame_of, view_of
from plait.errors import ConfigError
from plait.studies.difference import difference, margin_of_mean
from plait.studies.runs import Group, StudiedRun, grouped

if TYPE_CHECKING:
    import pandas as pd

    from plait.adapters import Json  # brings numpy along

_MOST_NAMED = 8
_GROUPS: Mapping[str, str] = {
    "group": TEXT, "seeds": COUNT, "finished": "bool", "loss": NUMBER, "loss_margin": NUMBER, "change": NUMBER,
    "accuracy": NUMBER, "bytes": NUMBER, "wall_s": NUMBER,
}  # fmt: skip
_DIFFERENCES: Mapping[str, str] = {
    "group": TEXT, "baseline": TEXT, "difference": NUMBER, "margin": NUMBER, "paired_over": TEXT, "pairs": COUNT,
}  # fmt: skip


@dataclass(frozen=True)
class GroupFigures:
    """The means of a group over its seeds: held-out loss, its change since the start, bytes in both directions, time.

    `loss_margin` is over seeds, or of one run over its held-out sequences.
    """

    loss: float | None
    loss_margin: float | None
    change: float | None
    accuracy: float | None
    bytes: float
    wall_s: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Groups of runs side by side, in the order given, and the one that the others are compared with."""

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
    def summary(self) -> pd.DataFrame:
        """One row per group of runs that differ in the seed only: means over seeds; what is unknown is NaN.

        ``loss_margin`` is over seeds, or over the held-out sequences of a single run.
        """
        return frame_of(self._group_rows(), _GROUPS)

    @property
    def differences(self) -> pd.DataFrame:
        """One row per group other than the baseline: its loss minus that of the baseline, in nats.

        ``paired_over`` is ``seeds`` (with their number in ``pairs``), ``sequences`` or ``nothing``.
        """
        return frame_of(self._difference_rows(), _DIFFERENCES)

    def page(self) -> str:
        """The comparison as one self-contained HTML page."""
        from plait.studies.tables import render_page

        return render_page(self)

    def to_json(self) -> dict[str, Json]:
        """All figures under stable keys; what is unknown is None."""
        rows = {"groups": self._group_rows(), "differences": self._difference_rows(), "notes": self.notes}
        return {name: list(each) for name, each in rows.items()}

    def figures_of(self, group: Group) -> GroupFigures:
        """The means of a group."""
        counted = group.counted or group.runs
        finals = [run.final for run in counted if run.final]
        losses = [final.loss for final in finals]
        return GroupFigures(
            loss=_mean(losses),
            loss_margin=finals[0].loss_margin if len(finals) == 1 else margin_of_mean(losses),
            change=_mean([final.change for final in finals]),
            accuracy=_mean([final.accuracy for final in finals]),
            bytes=statistics.fmean(run.view.sent.total_bytes for run in counted),
            wall_s=statistics.fmean(run.view.wall_s for run in counted),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before comparing, in sentences, those that matter most first."""
        return (*self._incomparable(), *self._unfinished(), *self._other_sequences(), *self._personal())

    def _group_rows(self) -> Iterator[dict[str, Json]]:
        for group in self.groups:
            counts: dict[str, Json] = {"seeds": len(group.counted), "finished": group.is_finished}
            yield {"group": group.label, **counts, **vars(self.figures_of(group))}

    def _difference_rows(self) -> Iterator[dict[str, Json]]:
        for group in self.groups:
            found = None if group is self.baseline else difference(group, self.baseline)
            if found:
                yield {
                    "group": group.label,
                    "baseline": self.baseline.label,
                    "difference": found.mean,
                    "margin": found.margin,
                    "paired_over": found.pairing.value,
                    "pairs": found.pairs,
                }

    def _incomparable(self) -> Iterator[str]:
        for what in self.baseline.runs[0].task:
            if len({group.runs[0].task[what] for group in self.groups}) > 1:
                names = {group.label: group.runs[0].task_names[what] for group in self.groups}
                listed = "; ".join(
                    f"{value}: {', '.join(label for label, name in names.items() if name == value)}"
                    for value in dict.fromkeys(names.values())
                )
                same = " of one name" if len(set(names.values())) == 1 else ""
                yield f"These runs have different {what}{same}, so their losses are not comparable ({listed})."

    def _unfinished(self) -> Iterator[str]:
        for run in self.runs:
            if not run.view.finished:
                done = f"{len(run.view.rounds)} of {run.view.planned_rounds} rounds"
                yield f"{run.name} is unfinished, {done}: its figures are its state so far."

    def _other_sequences(self) -> Iterator[str]:
        its = {run.seed: _sequences(run) for run in self.baseline.counted}
        for group in self.groups:
            same_task = group.runs[0].task == self.baseline.runs[0].task
            if same_task and any(_sequences(run) != its.get(run.seed, _sequences(run)) for run in group.counted):
                yield f"{group.label} is evaluated on other held-out sequences than {self.baseline.label}."

    def _personal(self) -> Iterator[str]:
        personal = [group.label for group in self.groups if group.runs[0].view.is_personal]
        if personal and len(personal) < len(self.groups):
            yield f"Losses of {', '.join(personal)} are of personalized adapters, the others of shared ones."


def compare(*runs: str | PathLike[str], baseline: str | PathLike[str] | None = None) -> Comparison:
    """Compare runs by their ledgers.

    Args:
        runs: run directories, or results such as `plait.simulate` returns; one given twice counts once.
        baseline: the run whose group the others are compared with; by default the first.

    Raises:
        ConfigError: there is no run, or no run at one of these paths.
        PeerError: a ledger is broken.
    """
    different: dict[Path, Path] = {}
    for path in map(Path, [*runs, *([baseline] if baseline else [])]):
        different.setdefault(path.resolve(), path)
    if not different:
        raise ConfigError("no run to compare, expected one directory of a run or more")
    found = {place: StudiedRun(path, view_of(path)) for place, path in different.items()}
    groups = grouped([*found.values()])
    first = found[Path(baseline).resolve()] if baseline else groups[0].runs[0]
    return Comparison(groups, next(group for group in groups if first in group.runs))


def _sequences(run: StudiedRun) -> Mapping[str, list[int | None]]:
    """By client, the tokens and the number of its held-out sequences."""
    return {client: [tokens, count] for client, (_, tokens, count) in run.beginning.items()}


def _mean(values: list[float] | list[float | None]) -> float | None:
    """The mean of a figure; None if one of the values is not known, or there is none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
