"""A comparison as tables and as a page: figures of every group, and paired differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.report.html import page_environment
from plait.report.table import Table
from plait.report.theme import palette_css
from plait.report.wording import bytes_text, change_text, duration_text, loss_text, percent_text, plural, within_text
from plait.studies.difference import Difference, Pairing, difference
from plait.studies.runs import Group

if TYPE_CHECKING:
    from plait.studies.comparison import Comparison

_PAIRING_NOTES = {
    Pairing.SEEDS: "Over seeds: runs with the same seed are subtracted.",
    Pairing.SEQUENCES: "Over sequences: both runs start with the same losses, so their changes since then are "
    "subtracted; the interval is at most this wide, and does not cover other seeds.",
    Pairing.NOTHING: "Not paired: the runs have neither seeds nor held-out losses at the start in common.",
}


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """The tables that have rows, in reading order."""
    return tuple(table for table in (_figures(comparison), _differences(comparison)) if table.rows)


def render_page(comparison: Comparison) -> str:
    """The same as one page; no script, no request, everything inline."""
    title, tables = f"{plural(len(comparison.runs), 'run')} compared", comparison_tables(comparison)
    template = page_environment("plait.studies").get_template("comparison.html")
    return template.render(title=title, notes=comparison.notes, tables=tables, palette=palette_css())


def _figures(comparison: Comparison) -> Table:
    """Loss, bytes and time of every group, those with the lowest loss first."""
    figures = {group: comparison.figures_of(group) for group in comparison.groups}
    ordered = sorted(figures.items(), key=lambda item: (item[1].loss is None, item[1].loss or 0.0))
    seeds = any(len(group.runs) > 1 for group in comparison.groups)
    classified = all(run.view.accuracy_name for run in comparison.runs)
    headings = ["run", *(["seeds"] if seeds else []), "held-out loss", *(["accuracy"] if classified else [])]
    rows = tuple(
        (
            _marked(group),
            *([f"{len(group.counted)}"] if seeds else []),
            within_text(loss_text(each.loss), each.loss_margin),
            *([percent_text(each.accuracy)] if classified else []),
            change_text(each.change, 0.0),
            bytes_text(each.bytes),
            duration_text(each.wall_s),
        )
        for group, each in ordered
    )
    over = "seeds, or over the held-out sequences of a single run" if seeds else "held-out sequences"
    unfinished = "" if all(group.is_finished for group in comparison.groups) else " *: unfinished."
    note = f"± is a 95 % interval over {over}.{unfinished}"
    return Table("Held-out loss and bytes", (*headings, "change", "sent", "time"), rows, note)


def _differences(comparison: Comparison) -> Table:
    """The loss of every group minus that of the baseline, those with the lowest loss first."""
    others = (group for group in comparison.groups if group is not comparison.baseline)
    known = {group: each for group in others if (each := difference(group, comparison.baseline))}
    texts = {Pairing.SEEDS: "{} seeds", Pairing.SEQUENCES: "held-out sequences", Pairing.NOTHING: "nothing"}
    rows = tuple(
        (
            _marked(group),
            within_text(change_text(each.mean, 0.0), each.margin),
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
