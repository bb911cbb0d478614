from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from plait.report import plots
from plait.report.theme import LIGHT, draw
from plait.rounds.events import ClientScore, ClientsDescribed, DescribedClient, Evaluated
from tests.plait.conftest import view_of

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
NAMES = ("loss_by_round", "loss_by_bytes", "clients")


def is_blank(png: bytes) -> bool:
    return bool(np.ptp(imread(io.BytesIO(png))[..., :3]) < 0.2)


def crowd(view, count: int):
    """The same run with `count` clients."""
    names = [f"client-{index}" for index in range(count)]
    for index, name in enumerate(names):
        client = DescribedClient(client=name, train_tokens=100 * (index + 1), histogram={"a": index + 1, "b": 3})
        view.take(ClientsDescribed(clients=(client,)))
    for number in (0, 1):
        scores = {name: ClientScore(loss=3.0 - number) for name in names}
        view.take(Evaluated(round=number, loss=3.0 - number, by_client=scores))
    return view


@pytest.mark.slow
def test_every_plot_is_a_png_with_something_on_it(small_run) -> None:
    drawn = plots.draw_plots(view_of(small_run))
    assert tuple(drawn) == NAMES
    for png in drawn.values():
        assert png.startswith(PNG_MAGIC)
        assert not is_blank(png)


@pytest.mark.slow
def test_a_run_that_has_only_begun_can_be_drawn(small_run) -> None:
    for png in plots.draw_plots(view_of(small_run[:1])).values():
        assert png.startswith(PNG_MAGIC)
        assert not is_blank(png)


@pytest.mark.slow
def test_hostile_names_are_drawn_as_they_are(hostile_run) -> None:
    figure_texts: list[str] = []

    def plot():
        figure = plots.loss_by_round(view_of(hostile_run), LIGHT)
        figure_texts.extend(text.get_text() for text in figure.axes[0].texts)
        return figure

    assert draw(plot).startswith(PNG_MAGIC)
    assert "$\\frac{1}{$" in figure_texts
    assert "evil" in figure_texts
    assert "[31mred [0m" in figure_texts


@pytest.mark.parametrize("count", [1, 10, 11, 200])
def test_few_clients_are_named_and_a_crowd_is_not(small_run, count: int) -> None:
    figure = plots.loss_by_round(crowd(view_of([small_run[0], small_run[-2]]), count), LIGHT)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert ("client-0" in texts) == (1 < count <= 10)
    lines = figure.axes[0].lines
    own = count if 1 < count <= 10 else 0
    # Each of a few clients, the mean, the base and the reference; of more, where most of them lie.
    assert len(lines) == own + 3
    assert len(figure.axes[0].collections) == (2 if count > 10 else 0)


def test_the_dashed_curves_spend_what_the_alternatives_would(small_run) -> None:
    figure = plots.loss_by_bytes(view_of(small_run), LIGHT)
    curves = {line.get_label().split(":")[0]: list(line.get_xdata()) for line in figure.axes[0].lines}
    assert curves["full model, fp32"] == [2 * 2 * 4_000_000, 4 * 2 * 4_000_000]
    assert curves["raw adapter, fp32"] == [2 * 2 * 4000, 4 * 2 * 4000]
    assert curves["adapter at 4 bits"] == [2 * 2 * 500, 4 * 2 * 500]
    assert curves["this run"] == [10_210, 20_210]
