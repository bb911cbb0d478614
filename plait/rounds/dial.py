"""The end of the range of `--wire` in which a run keeps what exact exchange gains. Figures: `simulations/defaults`."""

from __future__ import annotations

FEWEST_BITS = 1.0
"""The fewest bits per parameter at which five rounds of SmolLM2 kept at least 97 % of float32's gain: on two texts, on
which this was chosen, and on six that no choice looked at."""


def dial_sentence(wire: object) -> str:
    """What a run gives up at this rate, in words; empty where that is next to nothing.

    Args:
        wire: bits per parameter, or the name of a codec, about which nothing is said.
    """
    try:
        bits = float(str(wire))
    except ValueError:
        return ""
    if not 0 < bits < FEWEST_BITS:
        return ""
    return (
        f"{bits:g} bits per parameter are outside the range in which a run keeps its gain, which ends at "
        f"{FEWEST_BITS:g}: after five rounds of SmolLM2 0.5 kept 87 to 94 % of what exact exchange gains, 0.25 kept 77 "
        f"to 86 %. A lower --rank at --wire {FEWEST_BITS:g} sends as few bytes and keeps more: half of rank 8 kept 97 "
        "to 100 %, a quarter 96 to 100 %."
    )
