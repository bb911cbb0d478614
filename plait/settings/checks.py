"""Settings of what is done about updates that cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from plait.settings.table import Table
from plait.traits import Stated, Trait


def _norm_bound(value: object) -> object:
    """A bound as text: a number above 1, which may follow ``clip:``, or one of two words."""
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or text in ("auto", "off"):
        return text
    try:
        bound = float(text.removeprefix("clip:"))
    except ValueError:
        bound = math.nan
    if not 1 < bound < math.inf:
        raise ValueError("expected auto, off, a number above 1, or clip: and such a number")
    return text


class Checks(Table):
    """What is done about updates that cannot be trusted."""

    table: ClassVar[str] = "checks"
    heading: ClassVar[str] = "Updates that cannot be trusted"

    norm_bound: Annotated[str, BeforeValidator(_norm_bound)] = "auto"
    """largest update norm allowed, as a multiple of the median of this and recent rounds: a larger update is refused,
    with clip:NUMBER clipped; auto is 10, but off with --dp client and secure-aggregation"""
    keep_updates: bool = False
    """keep all updates in RUN/spool, so that plait verify can recompute every round"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.norm_bound not in ("auto", "off"):
            needs = {Trait.SINGLE_UPDATES: "their norms decide which of them count"}
            yield self.says("norm_bound", needs=needs, instead="auto or off")
