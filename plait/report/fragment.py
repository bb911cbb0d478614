"""A run as a piece of HTML for a notebook: a sentence, key figures and the loss curve, without a script."""

from __future__ import annotations

from plait.report.html import headline, inline, key_figures, page_environment
from plait.report.wording import plural
from plait.rounds.run_view import RunView

_CURVE = "loss_by_round"


def render_fragment(view: RunView) -> str:
    """The piece; its text is escaped."""
    # Loading matplotlib takes a second.
    from plait.report.plots import loss_by_round
    from plait.report.theme import DARK, LIGHT, draw

    done = f"{len(view.rounds)} of {plural(view.planned_rounds, 'round')} done"
    curves = inline(
        {theme.media: {_CURVE: draw(lambda theme=theme: loss_by_round(view, theme))} for theme in (DARK, LIGHT)}
    )
    return (
        page_environment()
        .get_template("fragment.html")
        .render(
            headline=headline(view),
            notice="" if view.finished else f"This run has not finished: {done}.",
            figures=key_figures(view),
            curves={media: plots[_CURVE] for media, plots in curves.items()},
        )
    )
