"""One row of the scoreboard: the number of tries, the number passed, and its printed form.

Knows nothing of the tests.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Row:
    """What came of one row."""

    row: str
    tried: int
    passed: int
    figures: Mapping[str, object] = field(default_factory=dict)
    failures: Sequence[str] = ()
    least: int = 1
    """Tries without which a row proves nothing."""

    @classmethod
    def of(cls, row: str, complaints: Iterable[str] | Mapping[str, str], *, least: int, **figures: object) -> Self:
        """A row of which every try, which may have a name, has a complaint, empty where it held."""
        if isinstance(complaints, Mapping):
            complaints = [f"{name}: {wrong}" if wrong else "" for name, wrong in complaints.items()]
        tried = list(complaints)
        failures = [complaint for complaint in tried if complaint]
        return cls(row, len(tried), len(tried) - len(failures), figures, failures, least)

    @property
    def ok(self) -> bool:
        """Whether everything held, and enough was tried."""
        return self.tried >= self.least and self.passed == self.tried and not self.failures

    def line(self, seconds: float) -> str:
        said = {"row": self.row, "tried": self.tried, "passed": self.passed, "ok": self.ok}
        more = {"failures": list(self.failures)[:5]} if self.failures else {}
        return json.dumps({**said, "figures": dict(self.figures), **more, "seconds": round(seconds, 1)})

    def cells(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"| {self.row} | {self.passed:,} of {self.tried:,} | {figures} | {'yes' if self.ok else 'NO'} |"


def one_in(every: int, name: str) -> bool:
    """Whether a case is in a sample: by its name alone, so that a new case does not shift the others."""
    return zlib.crc32(ascii(name).encode()) % every == 0


HEADER = "| Row | Held | Measured | Passed |\n|---|---|---|---|"
