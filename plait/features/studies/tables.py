"""A comparison as tables: figures of every group, paired differences, and the settings that differ."""

from __future__ import annotations

from plait.features.studies.comparison import Comparison
from plait.features.studies.difference import Difference, Pairing
from plait.features.studies.runs import Group, differing, setting_text
from plait.report.table import Table
from plait.report.wording import (
    NOTHING,
    bytes_text,
    change_text,
    clean,
    duration_text,
    loss_text,
    percent_text,
    plural,
    within_text,
)

_MOST_SETTINGS = 12


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """The tables that have rows, in reading order."""
    tables = (figures_table(comparison), differences_table(comparison), settings_table(comparison))
    return tuple(table for table in tables if table.rows)


def figures_table(comparison: Comparison) -> Table:
    """Loss, bytes and time of every group, those with the lowest loss first."""
    figures = {group: comparison.figures_of(group) for group in comparison.groups}
    ordered = sorted(figures, key=lambda group: _last_if_none(figures[group].loss))
    seeds = any(len(group.runs) > 1 for group in comparison.groups)
    personalized = any(each.personalized_loss is not None for each in figures.values())
    unbeaten = comparison.unbeaten
    headings = ["run", *(["seeds"] if seeds else []), "held-out loss"]
    headings += ["accuracy"] if comparison.is_classification else []
    headings += ["sent", "Pareto", *(["best seed"] if seeds else []), "change"]
    headings += ["personalized", "time"] if personalized else ["time"]
    rows: list[tuple[str, ...]] = []
    for group in ordered:
        each = figures[group]
        row = [_marked(group), *([f"{len(group.counted)}"] if seeds else [])]
        row += [within_text(loss_text(each.loss), each.loss_margin)]
        row += [percent_text(each.accuracy)] if comparison.is_classification else []
        row += [bytes_text(each.bytes), "yes" if group in unbeaten else ""]
        row += [loss_text(each.best_loss)] if seeds else []
        row += [change_text(each.change, 0.0)]
        row += [loss_text(each.personalized_loss)] if personalized else []
        rows.append((*row, duration_text(each.wall_s)))
    over = "seeds, or over the held-out sequences of a single run" if seeds else "held-out sequences"
    note = f"± is a 95 % interval over {over}. Pareto: no other run has both as low a loss and as few bytes."
    if not all(group.is_finished for group in comparison.groups):
        note += " *: unfinished."
    return Table("Held-out loss and bytes", tuple(headings), tuple(rows), note)


def differences_table(comparison: Comparison) -> Table:
    """The loss of every group minus that of the baseline, those with the lowest loss first."""
    found = {group: comparison.difference_of(group) for group in comparison.groups if group is not comparison.baseline}
    known = {group: each for group, each in found.items() if each}
    rows = tuple(
        (_marked(group), within_text(change_text(each.mean, 0.0), each.margin), _pairing_text(each), _verdict(each))
        for group, each in sorted(known.items(), key=lambda item: item[1].mean)
    )
    used = {each.pairing for each in known.values()}
    notes = [text for pairing, text in _PAIRING_NOTES.items() if pairing in used]
    return Table(
        f"Difference of held-out loss to {comparison.baseline.label}",
        ("run", "difference", "paired over", "with 95 % confidence"),
        rows,
        " ".join(notes),
        text_columns=(0, 2, 3),
    )


def settings_table(comparison: Comparison) -> Table:
    """The settings that are not the same in all groups; empty if the groups' labels say it all."""
    keys = differing(group.settings for group in comparison.groups)
    if all(setting_text(key, group.settings) in group.label for group in comparison.groups for key in keys):
        keys = ()
    shown, left = keys[:_MOST_SETTINGS], len(keys) - _MOST_SETTINGS
    rows = tuple(
        (group.label, *(clean(str(group.settings.get(key, "")), limit=40) or NOTHING for key in shown))
        for group in (comparison.groups if keys else ())
    )
    return Table(
        "Settings that differ",
        ("run", *shown),
        rows,
        f"And {plural(left, 'more setting')}." if left > 0 else "",
        text_columns=tuple(range(len(shown) + 1)),
    )


def runs_table(comparison: Comparison) -> Table:
    """Every run by itself."""
    rows = tuple(
        (
            run.name if run.view.finished else f"{run.name} *",
            group.label,
            f"{run.seed}",
            within_text(loss_text(run.final.loss), run.final.loss_margin) if run.final else NOTHING,
            f"{len(run.view.rounds)}",
            bytes_text(run.view.sent.total_bytes),
            duration_text(run.view.wall_s),
        )
        for group in comparison.groups
        for run in group.runs
    )
    headings = ("run", "group", "seed", "held-out loss", "rounds", "sent", "time")
    return Table("Every run", headings, rows, text_columns=(0, 1))


_PAIRING_NOTES = {
    Pairing.SEEDS: "Over seeds: runs with the same seed are subtracted.",
    Pairing.SEQUENCES: "Over sequences: both runs start with the same losses, so their changes since then are "
    "subtracted; the interval is at most this wide, and does not cover other seeds.",
    Pairing.NOTHING: "Not paired: the runs have neither seeds nor held-out losses at the start in common.",
}


def _pairing_text(found: Difference) -> str:
    match found.pairing:
        case Pairing.SEEDS:
            return plural(found.pairs, "seed")
        case Pairing.SEQUENCES:
            return "held-out sequences"
        case Pairing.NOTHING:
            return "nothing"


def _verdict(found: Difference) -> str:
    if found.margin is None:
        return "not known"
    if not found.is_clear:
        return "not clear"
    return "lower" if found.mean < 0 else "higher"


def _marked(group: Group) -> str:
    return group.label if group.is_finished else f"{group.label} *"


def _last_if_none(loss: float | None) -> tuple[bool, float]:
    return loss is None, loss or 0.0
