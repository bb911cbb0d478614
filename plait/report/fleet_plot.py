"""The plot of one round of a simulated fleet: each device's download, training and upload over virtual time."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from plait.report.theme import Theme, new_axes, short_name, written
from plait.report.wording import duration_text, plural
from plait.rounds.events import DeviceWorked
from plait.rounds.run_view import RunView

_MOST_ROWS = 40


def fleet_round(view: RunView, theme: Theme) -> Figure:
    """The newest round in which devices trained, the earliest end on top."""
    trained = [span for span in view.spans if span.is_training]
    number = max((span.round for span in trained), default=0)
    spans = sorted((span for span in trained if span.round == number), key=lambda span: (span.ended_s, span.client))
    shown, start_s = spans[:_MOST_ROWS], min((span.began_s for span in spans), default=0.0)
    title = f"Devices in round {number}"
    figure, (axes,) = new_axes(theme, height_inches=1.4 + 0.24 * max(1, len(shown)), title=title)
    names: list[str] = []
    for row, span in enumerate(shown):
        for begin_s, end_s, colour in _parts(span, theme):
            axes.barh(row, end_s - begin_s, left=begin_s - start_s, height=0.62, color=colour)
        if span.outcome != "answered":
            axes.plot([span.ended_s - start_s], [row], color=theme.central, marker="x", markersize=6, clip_on=False)
        names.append(short_name(f"{span.client} ({span.device})", limit=30))
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(written(duration_text))
    axes.tick_params(axis="x", labelsize=8)
    more = f" ({len(spans) - len(shown)} more)" if len(spans) > len(shown) else ""
    axes.set_xlabel(f"virtual time since the round began; {plural(len(spans), 'device')}{more}")
    axes.grid(axis="x", color=theme.faint, linewidth=0.8)
    legend = (("download", theme.accent_soft), ("training", theme.accent), ("upload", theme.local))
    figure.legend(
        handles=[
            *(Patch(color=colour, label=name) for name, colour in legend),
            Patch(color=theme.central, label="x: failed, or released"),
        ],
        loc="outside lower left", ncols=2 if theme.is_narrow else 4, frameon=False, labelcolor=theme.ink, fontsize=8.5,
    )  # fmt: skip
    return figure


def _parts(span: DeviceWorked, theme: Theme) -> tuple[tuple[float, float, str], ...]:
    """Begin, end and colour of each phase of a task; a failed device is silent until the server notices."""
    last = theme.faint if span.outcome == "dropped" else theme.local
    return (
        (span.began_s, span.received_s, theme.accent_soft),
        (span.received_s, span.worked_s, theme.accent),
        (span.worked_s, span.ended_s, last),
    )
