from __future__ import annotations

import re

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from plait.report.theme import DARK, LIGHT, WIDTHS, Theme, draw, draw_svg, new_axes, palette_css


def drawn(text: str = "3.1415 of 8") -> dict[str, str]:
    def plot(theme: Theme) -> Figure:
        figure, (axes,) = new_axes(theme, height_inches=2, title=text)
        axes.plot([0, 1], [0.123456, 1.5], color=theme.accent)
        return figure

    return draw_svg(plot, name="one")


@pytest.mark.slow
def test_a_page_s_plot_has_the_page_s_colours_and_nothing_from_elsewhere() -> None:
    for svg in drawn().values():
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)
        assert "var(--plot-accent)" in svg
        assert "http" not in svg
        assert "font-family" not in svg
    assert set(drawn()) == set(WIDTHS)


def test_every_colour_of_a_plot_is_one_of_the_page_s_in_light_and_dark() -> None:
    css = palette_css()
    used = set(re.findall(r"var\((--plot-[a-z0-9-]+)\)", "".join(drawn().values())))
    assert used
    for name in used:
        assert css.count(f"{name}: ") == 3  # light, dark, printed
    assert DARK.accent in css


@pytest.mark.slow
def test_a_plot_is_the_same_each_time_and_its_text_stays_whole() -> None:
    assert drawn() == drawn()
    assert ">3.1415 of 8<" in drawn()["wide"]


@pytest.mark.slow
def test_a_title_is_text_alone() -> None:
    assert "<script>" not in drawn("<script>alert(1)</script>")["wide"]


def test_a_matplotlibrc_of_the_current_directory_has_no_say() -> None:
    seen: list[bool] = []

    def plot() -> Figure:
        seen.append(mpl.rcParams["text.usetex"])
        return new_axes(LIGHT, height_inches=1, title="title")[0]

    with mpl.rc_context({"text.usetex": True}):
        draw(plot)
    assert seen == [False]
