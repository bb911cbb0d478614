"""The plots of a run, as SVG for a page and as PNG: losses, bytes, clients' data, devices.

Importing this loads matplotlib, which takes a moment: `write` does so only when there is something to draw. Up to
`_MOST_NAMED` clients are named at the end of their lines; of more, shades show where most of them lie.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator

from plait.ledger.events import DescribedClient
from plait.ledger.fleet import tasks_of
from plait.ledger.run_view import RunView
from plait.report.costs import SentBytes
from plait.report.theme import (
    LIGHT,
    Theme,
    bands,
    draw,
    draw_svg,
    legend_style,
    new_axes,
    say_nothing_yet,
    short_name,
    written,
)
from plait.report.wording import bytes_text, duration_text, loss_text, plural, round_bytes_text

_MOST_NAMED = 10
_MOST_CLIENT_ROWS = 24
_MOST_BARS = 100  # of more clients, that many are drawn, evenly spread
_MOST_KINDS = 9
_MOST_DEVICES = 40
_MOST_TICKS = 7
# Between two ticks, in seconds: parts of a minute, of an hour and of a day.
_TICKS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200)


@dataclass(frozen=True)
class EndLabel:
    """The name of a line, placed at its right end."""

    y: float
    text: str
    colour: str
    strong: bool = False


_CURVES = ("fp32_adapter", "bf16_adapter", "4bit_adapter", "full_model")


def draw_plots(view: RunView) -> dict[str, bytes]:
    """Draw all plots.

    Returns:
        PNG bytes under the names of the plots (file names without ``.png``), in reading order.
    """
    return {name: draw(lambda plot=plot: plot(view, LIGHT)) for name, plot in _plots(view).items()}


def draw_svgs(view: RunView) -> dict[str, dict[str, str]]:
    """Draw all plots for a page: SVG by the name of the plot and the width (see `plait.report.theme.WIDTHS`)."""
    return {name: draw_svg(partial(plot, view), name=name) for name, plot in _plots(view).items()}


def _plots(view: RunView) -> dict[str, Callable[[RunView, Theme], Figure]]:
    plots: dict[str, Callable[[RunView, Theme], Figure]] = {
        "loss_by_round": loss_by_round,
        "loss_by_bytes": loss_by_bytes,
        "clients": clients,
    }
    if "device_worked" in view.other_events:
        plots["fleet"] = fleet_round
    return plots


def loss_by_round(view: RunView, theme: Theme) -> Figure:
    """Mean held-out loss over rounds, with each client's own, the base and the baselines."""
    figure, (axes,) = new_axes(theme, height_inches=4.2, title="Held-out loss by round")
    if not view.evaluations:
        say_nothing_yet(axes, theme, "Nothing has been evaluated yet.")
        return figure
    labels: list[EndLabel] = []

    names = sorted({name for evaluation in view.evaluations.values() for name in evaluation.by_client})
    few = len(names) <= _MOST_NAMED
    if few:
        for index, name in enumerate(names if len(names) > 1 else ()):
            own = [(e.round, e.by_client[name].loss) for e in view.evaluations.values() if name in e.by_client]
            colour = theme.series[index % len(theme.series)]
            axes.plot(*zip(*own, strict=True), color=colour, linewidth=0.9, alpha=0.75, zorder=2)
            labels.append(EndLabel(own[-1][1], short_name(name), colour))
    else:
        losses = {e.round: [score.loss for score in e.by_client.values()] for e in view.evaluations.values()}
        bands(axes, theme, {number: found for number, found in losses.items() if found})

    for reference in view.references.values():
        points = [(number, loss) for number, loss in enumerate(reference.held_out_loss_by_round) if loss is not None]
        points = points or [(0, reference.held_out_loss), (max(view.evaluations), reference.held_out_loss)]
        colour = theme.central if reference.kind == "central" else theme.local
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, linestyle=(0, (4, 2)), zorder=4)
        labels.append(EndLabel(points[-1][1], f"{short_name(reference.kind)} {loss_text(points[-1][1])}", colour))

    base = view.base_evaluation
    if base:
        axes.axhline(base.loss, color=theme.muted, linewidth=1.2, linestyle=(0, (1, 2)), zorder=3)
        labels.append(EndLabel(base.loss, f"base {loss_text(base.loss)}", theme.muted))
    mean = [(evaluation.round, evaluation.loss) for evaluation in view.evaluations.values()]
    axes.plot(
        *zip(*mean, strict=True), color=theme.accent, linewidth=3, marker=_marker(len(mean)), zorder=5, clip_on=False
    )
    if view.final_evaluation:
        labels.append(EndLabel(mean[-1][1], f"federated {loss_text(mean[-1][1])}", theme.accent, strong=True))
        if own := view.own_evaluation:
            axes.plot([mean[-1][0]], [own.loss], color=theme.accent, marker="D", markersize=6, zorder=6, clip_on=False)
            labels.append(EndLabel(own.loss, f"personalized {loss_text(own.loss)}", theme.accent))

    axes.set_xlim(-0.02 * max(1, mean[-1][0]), max(1, mean[-1][0]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if theme.is_narrow else 10))
    axes.xaxis.set_major_formatter(written(lambda x: "base" if x == 0 else f"{x:.0f}"))
    axes.set_xlabel(
        "round" if few else f"round    (shaded: the middle half and 90 % of {plural(len(names), 'client')})"
    )
    axes.set_ylabel(_loss_label(view))
    axes.grid(axis="y", color=theme.faint, linewidth=0.8)
    _label_ends(axes, labels)
    return figure


def loss_by_bytes(view: RunView, theme: Theme) -> Figure:
    """The same losses over the bytes sent, compared with other exchanges."""
    figure, (axes,) = new_axes(theme, height_inches=4.2, title="Held-out loss by bytes sent")
    rounds = [evaluation for evaluation in view.evaluations.values() if evaluation.round > 0]
    if not rounds:
        say_nothing_yet(axes, theme, "No round has been evaluated yet.")
        return figure
    losses = [evaluation.loss for evaluation in rounds]
    counted = [update.counted_in for update in view.updates.values()]
    client_rounds = [sum(number <= evaluation.round for number in counted) for evaluation in rounds]
    sent = [view.sent_bytes_before[evaluation.round] for evaluation in rounds]
    label = f"this run: {bytes_text(sent[-1])}"
    axes.plot(sent, losses, color=theme.accent, linewidth=3, marker=_marker(len(sent)), label=label, zorder=3)
    ghosts = (theme.central, theme.series[1], theme.local, theme.series[2])
    drawn = [each for key, each in SentBytes.of(view).alternatives.items() if key in _CURVES]
    for alternative, colour in zip(drawn, ghosts, strict=True):
        spent = [alternative.sent_bytes(count) for count in client_rounds]
        label = f"{alternative.name}: {bytes_text(spent[-1])}"
        axes.plot(spent, losses, color=colour, linewidth=1.4, linestyle=(0, (3, 2)), alpha=0.85, label=label, zorder=2)
        axes.plot(spent[-1:], losses[-1:], color=colour, marker="o", markersize=4, zorder=2)
    if view.base_evaluation:
        loss = view.base_evaluation.loss
        axes.axhline(loss, color=theme.muted, linewidth=1.2, linestyle=(0, (1, 2)), label=f"base {loss_text(loss)}")
    _bytes_axis(axes, theme, lowest=min(sent[0], *(each.sent_bytes(client_rounds[0]) for each in drawn)))
    separator = "\n" if theme.is_narrow else "  "
    axes.set_xlabel(f"bytes sent, both directions{separator}(dashed: the same losses with every round sent that way)")
    axes.set_ylabel(_loss_label(view))
    axes.grid(color=theme.faint, linewidth=0.8)
    figure.legend(loc="outside lower left", **legend_style(theme, columns=2 if theme.is_narrow else 3))
    return figure


def clients(view: RunView, theme: Theme) -> Figure:
    """Training tokens of every client and, if they differ in kind, the kinds of its examples."""
    ordered = sorted(view.clients.values(), key=lambda client: (client.train_tokens, client.client))
    kinds = _kinds(ordered)
    rows = len(ordered) if len(ordered) <= _MOST_CLIENT_ROWS else 0
    height = 1.5 + 0.24 * rows if rows else 3.8
    figure, panels = new_axes(
        theme, height_inches=max(2.4, height), title="Data of each client", columns=2 if kinds else 1
    )
    if not ordered:
        say_nothing_yet(panels[0], theme, "No client has described its data yet.")
        return figure
    if not rows:
        ordered = ordered[:: max(1, -(-len(ordered) // _MOST_BARS))]
    positions = list(range(len(ordered)))
    tokens = [client.train_tokens for client in ordered]
    panels[0].barh(positions, tokens, 0.72 if rows else 1.0, color=theme.accent)
    panels[0].set_xlabel("training tokens")
    panels[0].xaxis.set_major_formatter(EngFormatter())
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=4 if kinds or theme.is_narrow else 8))
    panels[0].grid(axis="x", color=theme.faint, linewidth=0.8)
    if kinds:
        left = [0.0] * len(ordered)
        for index, kind in enumerate(kinds):
            shares = [_share(client, kind, kinds) for client in ordered]
            colour = theme.series[index] if kind is not None else theme.faint
            label = "other" if kind is None else short_name(kind)
            panels[1].barh(positions, shares, 0.72 if rows else 1.0, left=left, color=colour, label=label)
            left = [total + share for total, share in zip(left, shares, strict=True)]
        panels[1].set_xlim(0, 1)
        panels[1].xaxis.set_major_formatter(written(lambda x: f"{100 * x:.0f} %"))
        panels[1].xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
        panels[1].set_xlabel("share of its examples")
        figure.legend(loc="outside lower center", **legend_style(theme, columns=3 if theme.is_narrow else 5))
    for panel in panels:
        spare = max(0, 3 - len(ordered)) / 2  # a bar or two alone would be fat
        panel.set_ylim(-0.6 - spare, len(ordered) - 0.4 + spare)
        panel.yaxis.set_major_locator(NullLocator())
    if rows:
        panels[0].set_yticks(positions, [short_name(client.client) for client in ordered])
    else:
        panels[0].set_ylabel(f"{plural(len(view.clients), 'client')}, most tokens at the top")
    return figure


def fleet_round(view: RunView, theme: Theme) -> Figure:
    """The newest round in which devices trained, the earliest end on top."""
    trained = [task for task in tasks_of(view) if task.is_training]
    number = max((span.round for span in trained), default=0)
    spans = sorted((span for span in trained if span.round == number), key=lambda span: (span.ended_s, span.client))
    shown, start_s = spans[:_MOST_DEVICES], min((span.began_s for span in spans), default=0.0)
    title = f"Devices in round {number}"
    figure, (axes,) = new_axes(theme, height_inches=1.4 + 0.24 * max(1, len(shown)), title=title)
    names: list[str] = []
    for row, span in enumerate(shown):
        moments = (span.began_s, span.received_s, span.worked_s, span.ended_s)
        # A failed device is silent until the server notices.
        last = theme.faint if span.outcome == "dropped" else theme.local
        for (begin_s, end_s), colour in zip(
            itertools.pairwise(moments), (theme.accent_soft, theme.accent, last), strict=True
        ):
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
    handles = [
        *(Patch(color=colour, label=name) for name, colour in legend),
        Line2D([], [], color=theme.central, marker="x", linestyle="none", label="failed, or released"),
    ]
    columns = 2 if theme.is_narrow else 5
    figure.legend(handles=handles, loc="outside lower left", **legend_style(theme, columns=columns))
    return figure


def _time_ticks(lasted_s: float) -> list[float]:
    """Moments that are whole minutes, hours or parts of them, not too many."""
    days = (float(86_400 * number) for number in itertools.count(1))
    steps = itertools.chain((0.001, 0.01, 0.1), _TICKS_S, days)
    step_s = next(step_s for step_s in steps if lasted_s < _MOST_TICKS * step_s)
    return [step_s * number for number in range(math.floor(lasted_s / step_s) + 1)]


def _time_text(moment_s: float) -> str:
    return duration_text(moment_s).removesuffix(" 00 s").removesuffix(" 00 min") if moment_s else "0"


def _loss_label(view: RunView) -> str:
    if minus := view.learned.loss_is_minus:
        return f"held-out loss (minus the mean {minus})"
    return f"held-out loss (nats per {'example' if view.accuracy_name else 'token'})"


def _marker(points: int) -> str:
    return "o" if points <= 25 else ""


def _label_ends(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Name the lines at their right ends, moved apart if they would overlap."""
    low, high = axes.get_ylim()
    ordered = sorted(labels, key=lambda label: label.y)
    heights = spread([label.y for label in ordered], gap=(high - low) * 0.055)
    for label, height in zip(ordered, heights, strict=True):
        axes.annotate(
            label.text, (1, label.y), xycoords=("axes fraction", "data"), xytext=(1.045, height),
            textcoords=("axes fraction", "data"), va="center", color=label.colour, fontsize=8.5,
            fontweight="bold" if label.strong else "normal", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": label.colour, "linewidth": 0.7, "alpha": 0.7, "relpos": (0, 0.5),
                "shrinkA": 1, "shrinkB": 4,
            },
        )  # fmt: skip


def spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Move ascending heights as little as needed to be `gap` apart: overlapping ones are centred on their mean.

    Pool adjacent violators: with the gaps taken off, heights that are apart enough are an ascending sequence.
    """
    pools: list[tuple[float, int]] = []  # mean of heights without their gaps, how many
    for index, height in enumerate(heights):
        mean, count = height - index * gap, 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + index * gap for index, mean in enumerate(flat)]


def _bytes_axis(axes: Axes, theme: Theme, *, lowest: float) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5 if theme.is_narrow else 9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(written(round_bytes_text))
    axes.set_xlim(left=max(1.0, lowest) / 3)


def _kinds(clients: Sequence[DescribedClient]) -> list[str | None]:
    """The most common kinds of examples (None: all others); empty if a kind is just another name for a client."""
    total: Counter[str] = Counter()
    for client in clients:
        total.update(client.histogram)
    if all(len(client.histogram) <= 1 for client in clients) and len(total) in (0, 1, len(clients)):
        return []
    kinds: list[str | None] = [kind for kind, _ in total.most_common(_MOST_KINDS)]
    return [*kinds, None] if len(total) > len(kinds) else kinds


def _share(client: DescribedClient, kind: str | None, kinds: Sequence[str | None]) -> float:
    total = sum(client.histogram.values())
    if not total:
        return 0.0
    if kind is not None:
        return client.histogram.get(kind, 0) / total
    return sum(count for name, count in client.histogram.items() if name not in kinds) / total
