"""What a client's data have been asked for in one federation, over all runs, whatever their names.

A run's own records do not see another run, and a server begins as many runs as it likes, under names of its choice. So
a client keeps one journal of its data; each feature keeps its own entries there and refuses by them. An entry is on
disk before the answer that it is about leaves. Knows no file and no entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from plait.errors import ConfigError, PolicyError
from plait.json_text import read_json


class Lines(Protocol):
    """Lines of text that only ever grow in number."""

    def read(self) -> Sequence[str]:
        """All of them.

        Raises:
            PolicyError: some are known to be missing.
            MachineError: they cannot be read.
        """
        ...

    def append(self, line: str) -> None:
        """Add one, durably.

        Raises:
            MachineError: the disk is full or read-only.
        """
        ...


@dataclass(eq=False)
class DataJournal:
    """The journal of one data set in one federation.

    Attributes:
        lines: where it is kept.
    """

    lines: Lines
    _entries: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]], init=False)

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """All entries; of those that were read before none has changed.

        Raises:
            ConfigError: the journal is damaged.
            PolicyError: it has lost entries.
        """
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
        """Add an entry, durably.

        Raises:
            MachineError: it cannot be written.
        """
        self.lines.append(json.dumps(entry, sort_keys=True))


def damaged() -> ConfigError:
    """What is said of a journal that cannot be read."""
    return ConfigError(
        "this client's journal of its data is damaged: what was unmasked and spent is unknown, so it takes no "
        "part; restore it"
    )
