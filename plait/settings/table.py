"""What the tables of settings have in common: how keys are spelled, and how values are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

# The largest values that a task can carry.
MOST = 2**32 - 1
MOST_EXAMPLES = 1 << 20
MOST_TOKENS = 1 << 24


class Table(BaseModel):
    """Settings that belong together: a table in TOML, a section of the help.

    Attributes:
        table: its name in TOML; empty for the settings that stand above all tables.
        heading: its name in help and documentation.
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


def number_or(word: str) -> Callable[[object], object]:
    """For a setting that is a number or one word; the command line passes both as text."""

    def number(value: object) -> object:
        try:
            return float(value) if isinstance(value, str) and value != word else value
        except ValueError:
            raise ValueError(f"expected {word} or a number") from None

    return number
