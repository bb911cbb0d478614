"""The samples in the ledger, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import BaseModel, ConfigDict

from plait.report.table import Table
from plait.rounds.events import Count, Event
from plait.rounds.run_view import RunView

_LONGEST = 160
_RETURN = " \N{RETURN SYMBOL} "
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class Sample(BaseModel):
    """One beginning, continued twice with the same seed.

    Attributes:
        client: whose held-out data it is of.
        adapter: what it writes with the shared adapter.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    client: str
    beginning: str
    base: str
    adapter: str


class Sampled(Event):
    """What the model of a finished run writes."""

    event = "sampled"
    samples: tuple[Sample, ...]
    max_tokens: Count


def samples_table(view: RunView) -> Table:
    """The newest samples; without rows before there are any."""
    sampled = cast("Sequence[Sampled]", view.of_features.get("sampled", ()))
    if not sampled:
        return Table(title="", headings=(), rows=())
    newest = sampled[-1]
    rows = tuple(
        row
        for sample in newest.samples
        for row in (
            (sample.client, _shown(sample.beginning, end=True)),
            ("  base", _shown(sample.base)),
            ("  adapter", _shown(sample.adapter)),
        )
    )
    note = f"Held-out beginnings, each continued by up to {newest.max_tokens} tokens, with the same seed for both."
    return Table(title="What it writes", headings=("", ""), rows=rows, note=note, text_columns=(0, 1))


def _shown(text: str, *, end: bool = False) -> str:
    """A text in one line, cut at its end, or at its beginning."""
    line = _RETURN.join(part.strip() for part in text.strip("\n").splitlines() if part.strip())
    if len(line) <= _LONGEST:
        return line
    return f"{_ELLIPSIS}{line[-_LONGEST:]}" if end else f"{line[:_LONGEST]}{_ELLIPSIS}"
