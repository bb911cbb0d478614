"""Reports whose plots are made, but not rendered: 18 images take more time than most runs on the tiny base.

tests/plait/report renders them, and so does each command that tests start as Python itself.
"""

import base64
from collections.abc import Callable, Generator
from contextlib import contextmanager

import matplotlib.figure
import pytest

from plait.report import plots
from plait.report.theme import WIDTHS, Theme

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def _made(plot: Callable[[], matplotlib.figure.Figure]) -> bytes:
    plot()
    return _PIXEL


def _made_svg(_plot: Callable[[Theme], matplotlib.figure.Figure], *, name: str) -> dict[str, str]:
    return dict.fromkeys(WIDTHS, f"<svg><title>{name}</title></svg>")


@contextmanager
def plots_unrendered() -> Generator[None]:
    """In the block a report has one image of a pixel for each plot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", _made)
        patch.setattr(plots, "draw_svg", _made_svg)
        yield
