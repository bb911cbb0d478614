"""A comparison as one self-contained page; no script, no request, everything inline."""

from __future__ import annotations

import shlex

from plait.features.studies.comparison import Comparison
from plait.features.studies.plot import pareto, plot
from plait.features.studies.tables import (
    differences_table,
    figures_table,
    runs_table,
    settings_table,
)
from plait.report.html import page_environment
from plait.report.theme import draw_svg, palette_css
from plait.report.wording import bytes_text, loss_text, plural, within_text

_ALTERNATIVE_TEXTS = {
    "pareto": "Points: final held-out loss of every run against the bytes that it sent; the Pareto front is dashed.",
    "loss_by_bytes": "Line plot: held-out loss of every run over the bytes sent.",
    "loss_by_round": "Line plot: held-out loss of every run over rounds.",
}


def render_page(comparison: Comparison) -> str:
    """The whole page."""
    return (
        page_environment("plait.features.studies")
        .get_template("comparison.html")
        .render(
            title=f"{plural(len(comparison.runs), 'run')} compared",
            headline=headline(comparison),
            notes=comparison.notes,
            tables={
                "figures": figures_table(comparison),
                "differences": differences_table(comparison),
                "settings": settings_table(comparison),
                "runs": runs_table(comparison),
            },
            palette=palette_css(),
            plots=_plots(comparison),
            alternative_texts=_ALTERNATIVE_TEXTS,
            command=("plait", "compare", *map(shlex.quote, _arguments(comparison))),
        )
    )


def headline(comparison: Comparison) -> str:
    """Which runs have the lowest loss and the fewest bytes, in a sentence or two."""
    finished = [group for group in comparison.groups if group.is_finished] or comparison.groups
    figures = {group: comparison.figures_of(group) for group in finished}
    known = {group: each.loss for group, each in figures.items() if each.loss is not None}
    if not known:
        return "None of these runs has been evaluated yet."
    if any(group.runs[0].task != finished[0].runs[0].task for group in known):
        return "These runs do not learn the same task: compare each only with others of the same base and data."
    best, least = min(known, key=known.__getitem__), min(known, key=lambda group: figures[group].bytes)
    loss = within_text(loss_text(known[best]), figures[best].loss_margin)
    lowest = f"{best.label} ends with the lowest held-out loss, {loss}"
    sent = bytes_text(figures[best].bytes)
    if best is least:
        return f"{lowest}, and sends least, {sent}."
    return (
        f"{lowest}, and sends {sent}; {least.label} sends least, {bytes_text(figures[least].bytes)}, and ends at "
        f"{loss_text(known[least])}."
    )


def _plots(comparison: Comparison) -> dict[str, dict[str, str]]:
    def of(kind: str) -> dict[str, str]:
        return draw_svg(lambda theme: plot(comparison, "loss", kind, theme), name=f"loss_by_{kind}")

    return {
        "pareto": draw_svg(lambda theme: pareto(comparison, theme), name="pareto"),
        "loss_by_bytes": of("bytes"),
        "loss_by_round": of("round"),
    }


def _arguments(comparison: Comparison) -> list[str]:
    """What ``plait compare`` is given for the same comparison; by default the first run's group is the baseline."""
    runs = [str(run.path) for run in comparison.runs]
    is_first = comparison.baseline is comparison.groups[0]
    return runs if is_first else [*runs, "--baseline", str(comparison.baseline.runs[0].path)]
