"""The samples in a file of the run's directory, and the table that shows them; no ledger has text of a record."""

from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from plait.errors import PeerError
from plait.report.table import Table
from plait.system.files import open_plain

FILE = "samples.json"
MAX_TOKENS = 40
_MOST_BYTES = 1 << 20
_LONGEST = 160
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


class Sample(NamedTuple):
    """A beginning of a client's held-out data, and what it becomes without and with the shared adapter."""

    client: str
    beginning: str
    base: str
    adapter: str


def samples_in(run: Path) -> list[Sample]:
    """The samples in a run's directory, if any.

    Raises:
        PeerError: their file is damaged; its text is not quoted.
    """
    try:
        with open_plain(run / FILE) as file:
            return TypeAdapter(list[Sample]).validate_json(file.read(_MOST_BYTES))
    except FileNotFoundError:
        return []
    except (OSError, ValidationError):
        raise PeerError(f"'{run / FILE}' is damaged; remove it") from None


def samples_table(run: Path) -> Table:
    """The samples in a run's directory; without rows if there are none."""
    rows = tuple(
        row
        for sample in samples_in(run)
        for row in (
            (f"prompt, held out at {sample.client}", _shown(sample.beginning, end=True)),
            ("  base continues", _shown(sample.base)),
            ("  adapter continues", _shown(sample.adapter)),
        )
    )
    note = (
        f"Held-out beginnings, each continued by up to {MAX_TOKENS} tokens, with the same seed for both. Text of "
        f"records stands here, in report.html and in {FILE}, and in no other file."
    )
    return Table(
        title="What it writes", headings=("", "text"), rows=rows, note=note, text_columns=(0, 1), code_columns=(1,)
    )


def _shown(text: str, *, end: bool = False) -> str:
    """A text without empty lines, cut at its end, or at its beginning."""
    lines = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    if len(lines) <= _LONGEST:
        return lines
    return f"{_ELLIPSIS}{lines[-_LONGEST:]}" if end else f"{lines[:_LONGEST]}{_ELLIPSIS}"
