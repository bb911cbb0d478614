"""Compare runs by their ledgers: held-out losses in nats, bytes, and paired differences with 95 % intervals.

Runs that differ only in the seed form one group. *Paired over seeds*, losses of equal seeds are subtracted: that covers
initial values, batches, cohorts and partitions. *Paired over sequences*, runs that start with the same losses on the
same sequences differ by their changes, taken as independent: the interval is an upper bound, for this seed alone.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.result import COUNT, NUMBER, TEXT, frame_of, view_of
from plait.config import known_keys
from plait.errors import ConfigError
from plait.ledger.events import Evaluated
from plait.ledger.run_view import RunView
from plait.report.table import Table
from plait.report.wording import (
    bytes_text,
    change_text,
    clean,
    duration_text,
    loss_text,
    metric_texts,
    percent_text,
    plural,
    within_text,
)
from plait.system.text import Json

if TYPE_CHECKING:
    import pandas as pd


# Settings that change nothing of what a run measures, and the seed.
_APART = frozenset({"seed", "out", "publish", "keep-updates"})


@dataclass(frozen=True, eq=False)
class StudiedRun:
    """A run as its ledger describes it."""

    path: Path
    view: RunView

    @property
    def name(self) -> str:
        """Of its directory."""
        return clean(self.path.resolve().name, limit=60)

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.view.start.seed

    @property
    def settings(self) -> Mapping[str, object]:
        """All settings that decide what it measures, but for the seed, in the order of `RunConfig`.

        There, what follows from another setting by default (``personalize`` from ``rule``) comes after it.
        """
        config = self.view.start.config
        ordered = [key for key in known_keys() if key in config]
        return {key: config[key] for key in dict.fromkeys([*ordered, *config]) if key not in _APART}

    @property
    def final(self) -> Evaluated | None:
        """The evaluation of its adapter; the newest one of an unfinished run."""
        return self.view.final_evaluation

    @property
    def task(self) -> Mapping[str, object]:
        """What it learns and from where; losses of runs of different tasks cannot be compared."""
        start = self.view.start
        return {
            "bases": start.base.fingerprint or start.base.name,
            "data": start.data.fingerprint if start.data else start.config.get("data"),
            "tasks": start.base.task,
        }

    @property
    def task_names(self) -> Mapping[str, str]:
        """The same as names to read."""
        start = self.view.start
        data = " ".join(str(start.config[key]) for key in ("data", "columns", "group") if start.config.get(key))
        names = {"bases": start.base.name, "data": data, "tasks": start.base.task}
        return {what: clean(str(name)) for what, name in names.items()}

    @property
    def beginning(self) -> Mapping[str, tuple[float, int | None, int | None]]:
        """By client, the loss before round 1, its tokens and its sequences; equal for the same sequences only."""
        base = self.view.base_evaluation
        scores = base.by_client.items() if base else ()
        return {client: (score.loss, score.tokens, score.sequences) for client, score in scores}


@dataclass(frozen=True, eq=False)
class Group:
    """Runs whose settings differ in the seed only, ordered by it, under what distinguishes them from other groups."""

    label: str
    runs: tuple[StudiedRun, ...]

    @property
    def counted(self) -> tuple[StudiedRun, ...]:
        """The runs that its figures are of: the finished ones, or all that were evaluated if none has finished."""
        evaluated = tuple(run for run in self.runs if run.final)
        return tuple(run for run in evaluated if run.view.finished) or evaluated

    @property
    def is_finished(self) -> bool:
        """Whether all its runs have finished."""
        return all(run.view.finished for run in self.runs)


def grouped(runs: Sequence[StudiedRun]) -> tuple[Group, ...]:
    """The groups of these runs, in the order of their first runs.

    Runs that have the same settings and the same seed, as before and after a change of code, are of different groups.
    """
    members: dict[object, list[StudiedRun]] = {}
    for run in runs:
        key = tuple(sorted((key, str(value)) for key, value in run.settings.items()))
        repeat = 0
        while any(run.seed == other.seed for other in members.get((key, repeat), ())):
            repeat += 1
        members.setdefault((key, repeat), []).append(run)
    found = [tuple(sorted(group, key=lambda run: run.seed)) for group in members.values()]
    return tuple(Group(label, group) for label, group in zip(_labels(found), found, strict=True))


def _labels(groups: Sequence[tuple[StudiedRun, ...]]) -> list[str]:
    """The directories' names where these distinguish single runs, else a few settings that do."""
    names = [group[0].name for group in groups]
    are_names_enough = len(set(names)) == len(names)
    if are_names_enough and all(len(group) == 1 for group in groups):
        return names
    tables = [group[0].settings for group in groups]
    texts, parted = [""] * len(tables), 1
    for key in dict.fromkeys(key for table in tables for key in table):
        named = [f"{key} {clean(str(table.get(key)), limit=40)}" for table in tables]
        longer = [", ".join(filter(None, pair)) for pair in zip(texts, named, strict=True)]
        # Only a setting that distinguishes more of them, and none after those that distinguish all.
        if len(set(longer)) > parted:
            texts, parted = longer, len(set(longer))
        if parted == len(tables):
            return texts
    return names if are_names_enough else [clean(str(group[0].path)) for group in groups]


def margin_of_mean(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean of independent values, by Student's distribution; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to load

    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))


class Pairing(StrEnum):
    """What a difference is paired over."""

    SEEDS = "seeds"
    SEQUENCES = "sequences"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Difference:
    """How much the loss of one group is above that of another, in nats; no margin where nothing is known of it."""

    mean: float
    margin: float | None
    pairing: Pairing
    pairs: int = 1


def difference(group: Group, baseline: Group) -> Difference | None:
    """The loss of `group` minus that of `baseline`; None where one has no loss, or their losses cannot be compared."""
    ours = {run.seed: run for run in group.counted}
    theirs = {run.seed: run for run in baseline.counted}
    if not ours or not theirs or group.runs[0].task != baseline.runs[0].task:
        return None
    common = sorted(ours.keys() & theirs.keys())
    if len(common) >= 2:
        moved = [_loss(ours[seed]) - _loss(theirs[seed]) for seed in common]
        return Difference(statistics.fmean(moved), margin_of_mean(moved), Pairing.SEEDS, len(common))
    if common or len(ours) == len(theirs) == 1:
        one = ours[common[0]] if common else next(iter(ours.values()))
        other = theirs[common[0]] if common else next(iter(theirs.values()))
        return _of_two(one, other)
    groups = [[_loss(run) for run in runs.values()] for runs in (ours, theirs)]
    mean = statistics.fmean(groups[0]) - statistics.fmean(groups[1])
    return Difference(mean, _together(*map(margin_of_mean, groups)), Pairing.NOTHING)


def _of_two(one: StudiedRun, other: StudiedRun) -> Difference:
    mean = _loss(one) - _loss(other)
    if one.final and other.final and one.beginning and one.beginning == other.beginning:
        margin = _together(one.final.change_margin, other.final.change_margin)
        if margin is not None:
            return Difference(mean, margin, Pairing.SEQUENCES)
    margins = (run.final.loss_margin if run.final else None for run in (one, other))
    return Difference(mean, _together(*margins), Pairing.NOTHING)


def _together(one: float | None, other: float | None) -> float | None:
    """The margin of the sum or difference of two independent figures."""
    return None if one is None or other is None else math.hypot(one, other)


def _loss(run: StudiedRun) -> float:
    return run.final.loss if run.final else math.nan


_MOST_NAMED = 8
_GROUPS: Mapping[str, str] = {
    "group": TEXT, "seeds": COUNT, "finished": "bool", "loss": NUMBER, "loss_margin": NUMBER, "change": NUMBER,
    "judged": NUMBER, "accuracy": NUMBER, "bytes": NUMBER, "wall_s": NUMBER,
}  # fmt: skip
_DIFFERENCES: Mapping[str, str] = {
    "group": TEXT, "baseline": TEXT, "difference": NUMBER, "margin": NUMBER, "paired_over": TEXT, "pairs": COUNT,
}  # fmt: skip


@dataclass(frozen=True)
class GroupFigures:
    """The means of a group over its seeds: held-out loss, its change since the start, bytes in both directions, time.

    `loss_margin` is over seeds, or of one run over its held-out sequences; `judged` the loss on what decided nothing.
    """

    loss: float | None
    loss_margin: float | None
    change: float | None
    judged: float | None
    accuracy: float | None
    metrics: Mapping[str, float | None]
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
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that any of the runs has."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.view.metric_names))

    @property
    def summary(self) -> "pd.DataFrame":
        """One row per group of runs that differ in the seed only: means over seeds; what is unknown is NaN.

        ``loss_margin`` is over seeds, or over the held-out sequences of a single run.
        """
        return frame_of(self._group_rows(), _GROUPS, self.metric_names)

    @property
    def differences(self) -> "pd.DataFrame":
        """One row per group other than the baseline: its loss minus that of the baseline, in nats.

        ``paired_over`` is ``seeds`` (with their number in ``pairs``), ``sequences`` or ``nothing``.
        """
        return frame_of(self._difference_rows(), _DIFFERENCES)

    def page(self) -> str:
        """The comparison as one self-contained HTML page."""
        # A table alone needs neither templates nor matplotlib.
        from plait.report import html, theme

        title, tables = f"{plural(len(self.runs), 'run')} compared", comparison_tables(self)
        template = html.page_environment("plait.studies").get_template("comparison.html")
        return template.render(title=title, notes=self.notes, tables=tables, palette=theme.palette_css())

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
            judged=_mean([run.view.judged and run.view.judged.loss for run in counted]),
            accuracy=_mean([final.accuracy for final in finals]),
            metrics={name: _mean([(final.metrics or {}).get(name) for final in finals]) for name in self.metric_names},
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
            figures = dict(vars(self.figures_of(group)))
            yield {**figures.pop("metrics"), "group": group.label, **counts, **figures}

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
        raise ConfigError("no run to compare: give one run directory or more")
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


_PAIRING_NOTES = {
    Pairing.SEEDS: "Over seeds: runs with the same seed are subtracted.",
    Pairing.SEQUENCES: "Over sequences: both runs start with the same losses, so their changes since then are "
    "subtracted; the interval is at most this wide, and does not cover other seeds.",
    Pairing.NOTHING: "Not paired: fewer than two seeds in common, and other held-out losses at the start or too few.",
}


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """The tables that have rows, in reading order."""
    return tuple(table for table in (_figures(comparison), _differences(comparison)) if table.rows)


def _figures(comparison: Comparison) -> Table:
    """Loss, bytes and time of every group, those with the lowest loss first."""
    figures = {group: comparison.figures_of(group) for group in comparison.groups}
    ordered = sorted(figures.items(), key=lambda item: (item[1].loss is None, item[1].loss or 0.0))
    seeds = any(len(group.runs) > 1 for group in comparison.groups)
    classified = all(run.view.accuracy_name for run in comparison.runs)
    headings = ["run", *(["seeds"] if seeds else []), "held-out loss", *(["accuracy"] if classified else [])]
    headings += metric_texts(comparison.metric_names, None)
    judged = ["final figure"] if any(each.judged is not None for each in figures.values()) else []
    rows = tuple(
        (
            _marked(group),
            *([f"{len(group.counted)}"] if seeds else []),
            within_text(loss_text(each.loss), each.loss_margin),
            *([percent_text(each.accuracy)] if classified else []),
            *metric_texts(comparison.metric_names, each.metrics).values(),
            change_text(each.change),
            *(loss_text(each.judged) for _ in judged),
            bytes_text(each.bytes),
            duration_text(each.wall_s),
        )
        for group, each in ordered
    )
    over = "seeds, or over the held-out sequences of a single run" if seeds else "held-out sequences"
    unfinished = "" if all(group.is_finished for group in comparison.groups) else " *: unfinished."
    final = " final figure: loss on data that no decision looked at; held-out losses also decide." if judged else ""
    note = f"± is a 95 % interval over {over}.{unfinished}{final}"
    return Table("Held-out loss and bytes", (*headings, "change", *judged, "sent", "time"), rows, note)


def _differences(comparison: Comparison) -> Table:
    """The loss of every group minus that of the baseline, those with the lowest loss first."""
    others = (group for group in comparison.groups if group is not comparison.baseline)
    known = {group: each for group in others if (each := difference(group, comparison.baseline))}
    texts = {Pairing.SEEDS: "{} seeds", Pairing.SEQUENCES: "held-out sequences", Pairing.NOTHING: "nothing"}
    rows = tuple(
        (
            _marked(group),
            within_text(change_text(each.mean), each.margin),
            texts[each.pairing].format(each.pairs),
            _verdict(each),
        )
        for group, each in sorted(known.items(), key=lambda item: item[1].mean)
    )
    used = {each.pairing for each in known.values()}
    return Table(
        f"Difference of held-out loss to {comparison.baseline.label}",
        ("run", "difference", "paired over", "with 95 % confidence"),
        rows,
        " ".join(text for pairing, text in _PAIRING_NOTES.items() if pairing in used),
        text_columns=(0, 2, 3),
    )


def _verdict(found: Difference) -> str:
    if found.margin is None:
        return "not known"
    if abs(found.mean) <= found.margin:
        return "not clear"
    return "lower" if found.mean < 0 else "higher"


def _marked(group: Group) -> str:
    return group.label if group.is_finished else f"{group.label} *"
