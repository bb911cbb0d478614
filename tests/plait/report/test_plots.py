import io

import numpy as np
import pytest
from matplotlib.image import imread

from plait.report import plots
from plait.report.theme import LIGHT, draw
from tests.plait.conftest import view_of

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
NAMES = ("loss_by_round", "loss_by_bytes", "clients")


def is_blank(png: bytes) -> bool:
    return bool(np.ptp(imread(io.BytesIO(png))[..., :3]) < 0.2)


@pytest.mark.slow
def test_every_plot_is_a_png_with_something_on_it(small_run):
    drawn = plots.draw_plots(view_of(small_run))
    assert tuple(drawn) == NAMES
    assert not any(map(is_blank, drawn.values()))


@pytest.mark.slow
def test_hostile_names_are_drawn_as_they_are(hostile_run):
    figure_texts: list[str] = []

    def plot():
        figure = plots.loss_by_round(view_of(hostile_run), LIGHT)
        figure_texts.extend(text.get_text() for text in figure.axes[0].texts)
        return figure

    assert draw(plot).startswith(PNG_MAGIC)
    assert "$\\frac{1}{$" in figure_texts
    assert "evil" in figure_texts
    assert "[31mred [0m" in figure_texts
