"""Finished and unfinished runs side by side: what each measured, and which of them differ in nothing but the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.config import known_keys
from plait.ledger.events import Evaluated
from plait.ledger.run_view import RunView
from plait.report.wording import clean

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

        There, what follows from another setting by default (``own-share`` from ``rule``) comes after it.
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
        names = {"bases": start.base.name, "data": start.config.get("data"), "tasks": start.base.task}
        return {what: clean(str(name)) for what, name in names.items()}

    @property
    def beginning(self) -> Mapping[str, tuple[float, int | None, int | None]]:
        """By client, the loss before round 1, its tokens and its sequences; equal for the same sequences only."""
        base = self.view.base_evaluation
        scores = base.by_client.items() if base else ()
        return {client: (score.loss, score.tokens, score.sequences) for client, score in scores}


@dataclass(frozen=True, eq=False)
class Group:
    """Runs whose settings differ in the seed only, ordered by it, under what tells them from other groups."""

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
    """The directories' names where these tell single runs apart, else a few settings that do."""
    names = [group[0].name for group in groups]
    are_names_enough = len(set(names)) == len(names)
    if are_names_enough and all(len(group) == 1 for group in groups):
        return names
    tables = [group[0].settings for group in groups]
    texts, parted = [""] * len(tables), 1
    for key in dict.fromkeys(key for table in tables for key in table):
        said = [f"{key} {clean(str(table.get(key)), limit=40)}" for table in tables]
        longer = [", ".join(filter(None, pair)) for pair in zip(texts, said, strict=True)]
        # Only a setting that tells more of them apart, and none after those that tell all.
        if len(set(longer)) > parted:
            texts, parted = longer, len(set(longer))
        if parted == len(tables):
            return texts
    return names if are_names_enough else [clean(str(group[0].path)) for group in groups]
