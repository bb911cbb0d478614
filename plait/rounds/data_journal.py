"""A client's journal of its data in a federation, over all runs, of which a server begins as many as it likes.

Masks and differential privacy refuse by it. An entry is on disk before the answer that it is about leaves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from plait.errors import ConfigError, PolicyError
from plait.system.json_text import read_json


class GrowingLines(Protocol):
    """Lines of text that only ever grow in number."""

    def read(self) -> Sequence[str]:
        """All of them."""
        ...

    def append(self, line: str) -> None:
        """Add one, durably."""
        ...


@dataclass(eq=False)
class DataJournal:
    """The journal of one data set in one federation."""

    lines: GrowingLines
    _entries: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]], init=False)

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """All entries; of those that were read before none has changed."""
        lines, read = self.lines.read(), len(self._entries)
        if len(lines) < read:
            raise PolicyError(
                "this client's journal of its data has fewer entries than a moment ago: restore the newest"
            )
        try:
            new = [read_json(line) for line in lines[read:]]
        except ValueError as error:
            raise damaged() from error
        if not all(isinstance(each, dict) for each in new):
            raise damaged()
        self._entries += cast("list[Mapping[str, Any]]", new)
        return self._entries

    def add(self, entry: Mapping[str, object]) -> None:
        """Add an entry, durably."""
        self.lines.append(json.dumps(entry, sort_keys=True))


def damaged() -> ConfigError:
    """The error of a journal that cannot be read."""
    return ConfigError(
        "this client's journal of its data is damaged: what was unmasked and spent is unknown; restore the file"
    )
