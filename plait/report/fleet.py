"""The plot of a round of a simulated fleet."""

import itertools
import math

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plait.ledger.fleet import DeviceWorked, tasks_of
from plait.ledger.run_view import RunView
from plait.report.theme import Theme, new_axes, short_name, written
from plait.report.wording import duration_text, plural

_MOST_ROWS = 40
_MOST_TICKS = 7
# Between two ticks, in seconds: parts of a minute, of an hour and of a day.
_TICKS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200)


def fleet_round(view: RunView, theme: Theme) -> Figure:
    """The newest round in which devices trained, the earliest end on top."""
    trained = [task for task in tasks_of(view) if task.is_training]
    number = max((span.round for span in trained), default=0)
    spans = sorted((span for span in trained if span.round == number), key=lambda span: (span.ended_s, span.client))
    shown, start_s = spans[:_MOST_ROWS], min((span.began_s for span in spans), default=0.0)
    title = f"Devices in round {number}"
    figure, (axes,) = new_axes(theme, height_inches=1.4 + 0.24 * max(1, len(shown)), title=title)
    names: list[str] = []
    for row, span in enumerate(shown):
        for begin_s, end_s, colour in _phases(span, theme):
            axes.barh(row, end_s - begin_s, left=begin_s - start_s, height=0.62, color=colour)
        if span.outcome != "answered":
            axes.plot([span.ended_s - start_s], [row], color=theme.central, marker="x", markersize=6)
        names.append(short_name(f"{span.client} ({span.device})", limit=30))
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    lasted_s = max((span.ended_s for span in shown), default=start_s) - start_s
    axes.set_xlim(0, 1.02 * lasted_s or 1.0)
    axes.set_xticks(_time_ticks(lasted_s))
    axes.xaxis.set_major_formatter(written(_time_text))
    axes.tick_params(axis="x", labelsize=8)
    more = f" ({len(spans) - len(shown)} more)" if len(spans) > len(shown) else ""
    axes.set_xlabel(f"virtual time since the first of them began; {plural(len(spans), 'device')}{more}")
    axes.grid(axis="x", color=theme.faint, linewidth=0.8)
    legend = [("download", theme.accent_soft), ("training", theme.accent), ("upload", theme.local)]
    if any(span.outcome == "dropped" for span in shown):
        legend.append(("silent after a failure", theme.faint))
    figure.legend(
        handles=[
            *(Patch(color=colour, label=name) for name, colour in legend),
            Line2D([], [], color=theme.central, marker="x", linestyle="none", label="failed, or released"),
        ],
        loc="outside lower left", ncols=2 if theme.is_narrow else 5, frameon=False, labelcolor=theme.ink, fontsize=8.5,
    )  # fmt: skip
    return figure


def _time_ticks(lasted_s: float) -> list[float]:
    """Moments that are whole minutes, hours or parts of them, not too many."""
    days = (float(86_400 * number) for number in itertools.count(1))
    steps = itertools.chain((0.001, 0.01, 0.1), _TICKS_S, days)
    step_s = next(step_s for step_s in steps if lasted_s < _MOST_TICKS * step_s)
    return [step_s * number for number in range(math.floor(lasted_s / step_s) + 1)]


def _time_text(moment_s: float) -> str:
    return duration_text(moment_s).removesuffix(" 00 s").removesuffix(" 00 min") if moment_s else "0"


def _phases(span: DeviceWorked, theme: Theme) -> tuple[tuple[float, float, str], ...]:
    """Begin, end and colour of each phase of a task; a failed device is silent until the server notices."""
    last = theme.faint if span.outcome == "dropped" else theme.local
    return (
        (span.began_s, span.received_s, theme.accent_soft),
        (span.received_s, span.worked_s, theme.accent),
        (span.worked_s, span.ended_s, last),
    )
