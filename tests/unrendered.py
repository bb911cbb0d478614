"""Reports whose plots are made, but not rendered: 24 images take more time than most runs on the tiny base.

tests/plait/report renders them, and so does each command that tests start as Python itself.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from contextlib import contextmanager

import matplotlib.figure
import pytest

from plait.report import plots, theme

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)

_DRAW, _THEMES = plots.draw, theme.THEMES


def _made(plot: Callable[[], matplotlib.figure.Figure]) -> bytes:
    plot()
    return _PIXEL


@contextmanager
def plots_unrendered() -> Generator[None]:
    """In the block a report has one image of a pixel for each plot, for light and wide pages alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", _made)
        patch.setattr(theme, "THEMES", (theme.LIGHT,))
        yield


@contextmanager
def plots_rendered() -> Generator[None]:
    """In the block reports are as users get them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", _DRAW)
        patch.setattr(theme, "THEMES", _THEMES)
        yield
