import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from plait.report.theme import LIGHT, Theme, draw, draw_svg, new_axes


def drawn(text: str = "3.1415 of 8") -> dict[str, str]:
    def plot(theme: Theme) -> Figure:
        figure, (axes,) = new_axes(theme, height_inches=2, title=text)
        axes.plot([0, 1], [0.123456, 1.5], color=theme.accent)
        return figure

    return draw_svg(plot, name="one")


@pytest.mark.slow
def test_a_title_is_text_alone():
    assert "<script>" not in drawn("<script>alert(1)</script>")["wide"]


def test_a_matplotlibrc_of_the_current_directory_has_no_say():
    seen: list[bool] = []

    def plot() -> Figure:
        seen.append(mpl.rcParams["text.usetex"])
        return new_axes(LIGHT, height_inches=1, title="title")[0]

    with mpl.rc_context({"text.usetex": True}):
        draw(plot)
    assert seen == [False]
