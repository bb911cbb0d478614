from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure

from plait.report.theme import DARK, LIGHT, NARROW_DARK, THEMES, draw, new_axes, short_name


def test_drawing_leaves_the_settings_of_the_process_alone() -> None:
    before = dict(mpl.rcParams)
    draw(lambda: new_axes(LIGHT, height_inches=1, title="$x_1$")[0])
    assert dict(mpl.rcParams) == before


def test_a_page_tries_the_narrowest_and_darkest_first_and_ends_with_the_plain_one() -> None:
    assert THEMES[0] is NARROW_DARK
    assert THEMES[-1] is LIGHT
    assert LIGHT.media == ""
    assert DARK.media in NARROW_DARK.media


def test_a_name_that_legends_would_hide_is_shown() -> None:
    assert not short_name("_hidden").startswith("_")
    assert short_name("_hidden").strip() == "_hidden"


def test_a_matplotlibrc_of_the_current_directory_has_no_say() -> None:
    seen: list[bool] = []

    def plot() -> Figure:
        seen.append(mpl.rcParams["text.usetex"])
        return new_axes(LIGHT, height_inches=1, title="title")[0]

    with mpl.rc_context({"text.usetex": True}):
        draw(plot)
    assert seen == [False]
