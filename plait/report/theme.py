"""The look of plots: colours for light and dark pages, widths for desktops and phones, and rendering to SVG and PNG."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from plait.report.wording import clean

_WIDE_INCHES = 7.6
_NARROW_INCHES = 4.7
_DOTS_PER_INCH = 160
# Used only if installed: they have the scripts that DejaVu Sans lacks.
_FALLBACK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Hiragino Sans GB", "Microsoft YaHei", "Arial Unicode MS")


@dataclass(frozen=True)
class Theme:
    """Colours by their use."""

    surface: str
    ink: str
    muted: str
    faint: str  # grid, and lines in a crowd
    accent: str
    accent_soft: str
    central: str
    local: str
    series: tuple[str, ...]  # up to ten series side by side
    width_inches: float = _WIDE_INCHES
    media: str = ""  # the CSS media query of the pages that it is for, where a notebook shows PNG; empty for all others

    @property
    def is_narrow(self) -> bool:
        """Whether there is little room on the sides."""
        return self.width_inches < _WIDE_INCHES


LIGHT = Theme(
    surface="#ffffff", ink="#1c2126", muted="#66707a", faint="#dfe3e7", accent="#0b6a8f", accent_soft="#9ccbdd",
    central="#b8531b", local="#7a5a9e",
    series=(
        "#4e79a7", "#d58a3c", "#6a9f58", "#b65f6d", "#5fa3a1", "#a67fa5", "#8d6b52", "#c2a83e", "#7c8a99", "#3f6b57",
    ),
)  # fmt: skip
DARK = Theme(
    surface="#1a1e22", ink="#eceff1", muted="#9aa4ae", faint="#343b42", accent="#56b8dc", accent_soft="#2b627a",
    central="#e59a63", local="#b79ad8", media="(prefers-color-scheme: dark)",
    series=(
        "#7ba3d0", "#e2a868", "#90c27d", "#d98592", "#83c5c3", "#c9a4c8", "#b89478", "#dcc668", "#a3b0be", "#6fa58c",
    ),
)  # fmt: skip
NARROW_LIGHT = replace(LIGHT, width_inches=_NARROW_INCHES)
WIDTHS = {"wide": LIGHT, "narrow": NARROW_LIGHT}
"""The themes of a page's two drawings, by the CSS class of each."""

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
# What matplotlib writes besides the drawing: a head, metadata, a size in points, names that nothing refers to, a font.
_SURPLUS = re.compile(
    r"<\?xml.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<g/>| id=\"[a-zA-Z0-9.]+_\d+\""
    r"| transform=\"rotate\(-0 [^\"]*\"|xlink:(?=href)|font-family: [^;\"]*;? ?",
    re.DOTALL,
)
_HEAD = re.compile(r"<svg [^>]*(viewBox=\"[^\"]*\")[^>]*>")
_FONT = re.compile(r"font: (?:(\d+|bold|normal) )?([\d.]+)px [^;\"]*")
_TAG, _LONG = re.compile(r"<[^>]*>"), re.compile(r"(\d+\.\d\d)\d+")


def new_axes(theme: Theme, *, height_inches: float, title: str, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with one row of bare axes in the theme's colours, its title at the left."""
    figure = Figure(
        figsize=(theme.width_inches, height_inches), dpi=_DOTS_PER_INCH, layout="constrained", facecolor=theme.surface
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.04)  # pyright: ignore
    figure.suptitle(title, x=0.016, ha="left", color=theme.ink, fontsize=12, fontweight="bold")
    rows = figure.subplots(1, columns, squeeze=False)
    axes: list[Axes] = list(rows[0])
    for one in axes:
        one.set_facecolor(theme.surface)
        one.tick_params(colors=theme.muted, labelsize=9, length=0, which="both")
        one.xaxis.label.set(color=theme.muted, fontsize=9.5)
        one.yaxis.label.set(color=theme.muted, fontsize=9.5)
        one.set_axisbelow(True)
        for side, spine in one.spines.items():
            spine.set(visible=side == "bottom", color=theme.muted, linewidth=0.8)
    return figure, axes


def bands(axes: Axes, theme: Theme, values: Mapping[int, Sequence[float]]) -> None:
    """Shade where the middle half, and the middle 90 %, of many values lie.

    Args:
        values: of each round, at least one.
    """
    for share, alpha in ((0.9, 0.18), (0.5, 0.3)):
        ends = [np.quantile(values[number], ((1 - share) / 2, (1 + share) / 2)) for number in values]
        low, high = zip(*ends, strict=True)
        axes.fill_between(list(values), low, high, color=theme.muted, alpha=alpha, linewidth=0, zorder=1)


def legend_style(theme: Theme, *, columns: int) -> dict[str, Any]:
    """How a legend below the axes looks."""
    return {"ncols": columns, "frameon": False, "labelcolor": theme.ink, "fontsize": 8.5}


def say_nothing_yet(axes: Axes, theme: Theme, sentence: str) -> None:
    """Fill empty axes with a sentence."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", color=theme.muted, fontsize=10)


def short_name(name: str, *, limit: int = 22) -> str:
    """A client's name as a label: cleaned, cut, and never hidden from a legend (where a leading ``_`` would)."""
    label = clean(name, limit=limit)
    return f"\N{HAIR SPACE}{label}" if label.startswith("_") else label


def written(write: Callable[[float], str]) -> FuncFormatter:
    """Tick labels in the format of `write`."""

    def tick(value: float, _position: int | None) -> str:
        return write(value)

    return FuncFormatter(tick)


def draw(plot: Callable[[], Figure]) -> bytes:
    """Make the figure and return its PNG; no name in it is parsed as mathematics."""
    buffer = io.BytesIO()
    with _plain_text():
        # Figure.savefig would draw once more, to nothing, for the layout, which drawing does by itself.
        FigureCanvasAgg(plot()).print_png(buffer)
    return buffer.getvalue()


def draw_svg(plot: Callable[[Theme], Figure], *, name: str) -> dict[str, str]:
    """Make the figure for each of `WIDTHS`, as SVG to stand in a page that has `palette_css`."""
    drawn: dict[str, str] = {}
    for width, theme in WIDTHS.items():
        buffer = io.BytesIO()
        with _plain_text():
            mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": f"{name} {width}"})
            FigureCanvasSVG(plot(theme)).print_svg(buffer)
        text = _HEAD.sub(r"<svg \1>", _SURPLUS.sub("", buffer.getvalue().decode()))
        text = _FONT.sub(
            lambda found: f"font-size: {found[2]}px" + (f"; font-weight: {found[1]}" if found[1] else ""), text
        )
        text = _COLOUR.sub(lambda found: f"var(--{_NAMES[found[0]]})" if found[0] in _NAMES else found[0], text)
        text = _TAG.sub(lambda found: _LONG.sub(r"\1", found[0]), text)
        drawn[width] = "\n".join(line.strip() for line in text.splitlines() if line.strip())
    return drawn


def _named_colours(theme: Theme) -> dict[str, str]:
    """The colours of a theme by the names of their variables."""
    uses = ("surface", "ink", "muted", "faint", "accent", "accent_soft", "central", "local")
    named = {f"plot-{use.replace('_', '-')}": getattr(theme, use) for use in uses}
    return named | {f"plot-{number}": colour for number, colour in enumerate(theme.series)}


_NAMES = {colour: name for name, colour in _named_colours(LIGHT).items()} | {"#000000": "plot-ink"}


def palette_css() -> str:
    """The variables that plots take their colours from, for light and for dark pages."""
    light, dark = (
        " ".join(f"--{name}: {colour};" for name, colour in _named_colours(each).items()) for each in (LIGHT, DARK)
    )
    return f":root {{ {light} }}\n@media {DARK.media} {{ :root {{ {dark} }} }}\n@media print {{ :root {{ {light} }} }}"


@contextlib.contextmanager
def _plain_text() -> Generator[None]:
    """Text that is made in the block is shown as it is, in fonts that are there; a figure keeps that afterwards."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed)]
    with mpl.rc_context(), warnings.catch_warnings():
        # A script without an installed font shows as boxes; no need for a warning per character.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # Ignore a matplotlibrc in the current directory, which could run LaTeX.
        mpl.rcdefaults()
        mpl.rcParams.update({"text.parse_math": False, "font.family": fonts, "font.size": 9})
        yield
