"""What the tables of settings have in common: how keys are spelled, and how values are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from plait.settings.traits import NOTHING, Reasons, Stated

# The largest values that a task can carry.
MOST = 2**32 - 1
MOST_EXAMPLES = 1 << 20
MOST_TOKENS = 1 << 24


class SettingsTable(BaseModel):
    """Settings that belong together: a table in TOML, a section of the help.

    Attributes:
        table: its name in TOML; empty for the settings that stand above all tables.
        heading: its name in help and documentation.
        within: settings that mean something only beside some values of another: its name and those values; none for any
            value that is not the default.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    table: ClassVar[str] = ""
    heading: ClassVar[str] = ""
    within: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        yield from ()

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse numbers that do not fit this many clients, of which `cohort` train in a round.

        Raises:
            ValueError: with both numbers.
        """

    def states(self, name: str, *, needs: Reasons = NOTHING, takes: Reasons = NOTHING, instead: str = "") -> Stated:
        """What a setting states.

        Args:
            instead: what else it may be; by default its default.
        """
        key, default = name.replace("_", "-"), type(self).model_fields[name].default
        plain = f"no {key}" if default == "" else f"{key} {str(default).lower()}"
        return Stated(key, getattr(self, name), needs, takes, f"{key} {instead}" if instead else plain)

    def is_given(self, name: str) -> bool:
        """Whether a setting is not its default."""
        return getattr(self, name) != type(self).model_fields[name].default


def number_or(word: str) -> Callable[[object], object]:
    """For a setting that is a number or one word; the command line passes both as text."""

    def number(value: object) -> object:
        try:
            return float(value) if isinstance(value, str) and value != word else value
        except ValueError:
            raise ValueError(f"expected {word} or a number") from None

    return number


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a list in one text, with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
