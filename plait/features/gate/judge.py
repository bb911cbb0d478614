"""Whether an adapter may leave quarantine: conditions judged by what the ledger says, and by nothing else."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.errors import ConfigError
from plait.features.gate.conditions import FIGURES, parsed
from plait.features.gate.events import Quarantined, Released, ReleasedAnyway
from plait.features.gate.release import release
from plait.places import at
from plait.progress import say
from plait.rounds.events import Audited, Event, RunFinished
from plait.rounds.ledger import append_event, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView


@dataclass(frozen=True)
class Verdict:
    """What conditions say of an adapter.

    Attributes:
        figures: those that the ledger has, by name.
        failed: conditions that do not hold, each with its figure.
        unmeasured: conditions without a figure, each with what measures it.
    """

    figures: Mapping[str, float]
    failed: tuple[str, ...]
    unmeasured: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether all conditions hold."""
        return not self.failed and not self.unmeasured

    @property
    def in_words(self) -> str:
        """Which conditions keep an adapter back."""
        return "; ".join((*self.failed, *self.unmeasured))


def verdict(conditions: str, events: Sequence[Event]) -> Verdict:
    """Judge a finished run.

    Raises:
        ConfigError: the conditions are not valid.
        PeerError: the ledger does not begin with a run.
    """
    found = figures_in(events)
    failed: list[str] = []
    unmeasured: list[str] = []
    for condition in parsed(conditions):
        value, figure = found.get(condition.figure), FIGURES[condition.figure]
        if value is None:
            unmeasured.append(
                f"{condition.text}: not measured yet" + (f" ({by})" if (by := figure.measured_by) else "")
            )
        elif not condition.holds(value):
            failed.append(f"{condition.text}: it is {'no' if figure.is_flag else f'{value:.4g}'}")
    return Verdict(found, tuple(failed), tuple(unmeasured))


def figures_in(events: Sequence[Event]) -> dict[str, float]:
    """The figures that a ledger has, by their names in conditions; an audit of another adapter does not count."""
    view = RunView.of(events)
    found: dict[str, float] = {}
    if view.of_features.get("privacy_spent"):
        said = (card.status for card in view.cards.values())
        found |= {
            name: value for each in said for name in ("epsilon", "delta") if isinstance(value := each.get(name), float)
        }
    before, kept = view.evaluations.get(0), view.end.kept_round if view.end else None
    if before and kept and (after := view.evaluations.get(kept)):
        found |= {"held_out_loss": after.loss, "gain": -after.change_since(before)}
        if after.by_client:
            fell = [
                name in before.by_client and score.change_since(before.by_client[name]) < 0
                for name, score in after.by_client.items()
            ]
            found["every_client_improves"] = float(all(fell))
    if view.rounds:
        found["clients"] = min(each.received for each in view.rounds.values())
    audits = [each for each in events if isinstance(each, Audited) and view.end and each.adapter == view.end.adapter]
    # The worst of all audits: repeating one until it looks better opens no gate.
    if attacks := [attack for audit in audits for attack in audit.attacks]:
        found["membership_auc"] = max(attack.auc for attack in attacks)
        found["membership_tpr"] = max(attack.tpr for attack in attacks)
    if exposures := [audit.exposure for audit in audits if audit.exposure is not None]:
        found["exposure"] = max(exposures)
    return found


def judge(directory: RunDirectory, conditions: str) -> Verdict:
    """Judge a finished run, record the verdict, and let its adapter go if all conditions hold.

    Raises:
        PlaitError: the ledger is broken, or something cannot be written.
    """
    events = read_events(directory.ledger)
    view = RunView.of(events)
    if gone := view.erased:
        raise ConfigError(f"'{gone[0]}' has withdrawn from '{directory.path}', so its adapter is not released any more")
    found = verdict(conditions, events)
    adapter = view.end.adapter if view.end else ""
    if any(isinstance(event, Released | ReleasedAnyway) and event.adapter == adapter for event in events):
        # It was killed between the record and the move, if it is in quarantine.
        release(directory)
        return found
    event = (
        Released(adapter=adapter, conditions=conditions, figures=found.figures)
        if found.holds
        else Quarantined(adapter=adapter, failed=found.failed, unmeasured=found.unmeasured)
    )
    append_event(directory.ledger, event)
    if found.holds:
        release(directory)
    else:
        directory.hold_back(found.in_words)
    return found


@contextmanager
def judged_at_the_end(config: Any, run: Path, quiet: bool) -> Generator[None]:
    """Judge a run once it is finished."""
    yield
    directory = RunDirectory(run)
    if not any(isinstance(event, RunFinished) for event in read_events(directory.ledger)):
        return
    found = judge(directory, config.release_if)
    at("plait.report.write:write_report")(run)
    told = "released" if found.holds else f"in quarantine: {found.in_words}; plait release {run} judges again"
    say(f"the adapter is {told}", quiet=quiet)
