"""What a reader must know before comparing runs: what they do not have in common, and what is not finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from plait.features.studies.runs import Group, StudiedRun, differing
from plait.report.wording import clean
from plait.rounds.events import RunStarted

# Settings that decide which sequences are held out.
_DECIDES_SEQUENCES = frozenset(
    {
        "partition",
        "split",
        "columns",
        "clients",
        "seq-len",
        "held-out-fraction",
        "max-held-out-sequences",
        "eval-clients",
        "labels",
    }
)


def notes_on(groups: Sequence[Group], baseline: Group) -> tuple[str, ...]:
    """The sentences, those that matter most first."""
    return (*_incomparable(groups), *_unfinished(groups), *_other_sequences(groups, baseline), *_personal(groups))


def _incomparable(groups: Sequence[Group]) -> Iterator[str]:
    names: Mapping[str, Callable[[RunStarted], object]] = {
        "bases": lambda start: start.base.name,
        "data": lambda start: start.config.get("data"),
        "tasks": lambda start: start.base.task,
    }
    for what, name in names.items():
        if len({group.runs[0].task[what] for group in groups}) < 2:
            continue
        called = {group.label: clean(str(name(group.runs[0].view.start))) for group in groups}
        listed = "; ".join(
            f"{value}: {', '.join(label for label, of_label in called.items() if of_label == value)}"
            for value in dict.fromkeys(called.values())
        )
        same = " of one name" if len(set(called.values())) == 1 else ""
        yield f"These runs have different {what}{same}, so their losses are not comparable ({listed})."


def _unfinished(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        for run in group.runs:
            if run.state:
                yield f"{run.name} is {run.state}: its figures are its state so far."


def _other_sequences(groups: Sequence[Group], baseline: Group) -> Iterator[str]:
    for group in groups:
        if group is baseline or group.runs[0].task != baseline.runs[0].task:
            continue
        its = {run.seed: run for run in baseline.counted}
        both = [(run, its[run.seed]) for run in group.counted if run.seed in its]
        if any(_sequences(one) != _sequences(other) for one, other in both):
            why = [key for key in differing([group.settings, baseline.settings]) if key in _DECIDES_SEQUENCES]
            because = f" ({', '.join(why)})" if why else ""
            yield f"{group.label} is evaluated on other held-out sequences than {baseline.label}{because}."


def _personal(groups: Sequence[Group]) -> Iterator[str]:
    personal = [group.label for group in groups if group.runs[0].view.is_personal]
    if personal and len(personal) < len(groups):
        yield f"Losses of {', '.join(personal)} are of personalized adapters, the others of shared ones."


def _sequences(run: StudiedRun) -> Mapping[str, tuple[int | None, int | None]]:
    return {client: (tokens, sequences) for client, (_, tokens, sequences) in run.beginning.items()}
