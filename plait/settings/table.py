"""What the tables of settings have in common: how keys are spelled, how values are checked, and how TOML holds them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, cast

from pydantic import BaseModel, ConfigDict

from plait.errors import ConfigError, check_format
from plait.settings.choice import choice_text
from plait.settings.traits import NOTHING, Reasons, Stated
from plait.system.files import open_plain
from plait.system.text import escaped, read_toml

# The largest values that a task can carry.
MOST = 2**32 - 1
MOST_EXAMPLES = 1 << 20
MOST_TOKENS = 1 << 24
MOST_OF_GROUP = 1 << 10
MOST_EPOCHS = 1 << 10


class SettingsTable(BaseModel):
    """Settings that belong together: a table in TOML, a section of the help.

    A subclass has arguments: the `table`'s name in TOML, empty for the settings that stand above all tables; its
    `heading` in help and documentation; whether it is `optional`: then nothing of it is recorded where none of its
    settings is given. `within` are settings that mean something only beside some values of another: its name and those
    values; none for any value that is not the default.
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
    optional: ClassVar[bool] = False

    def __init_subclass__(cls, *, heading: str, table: str = "", optional: bool = False) -> None:
        """Take the arguments of a table's class."""
        super().__init_subclass__()
        cls.table, cls.heading, cls.optional = table, heading, optional

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        yield from ()

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse (ValueError) numbers that do not fit this many clients, of which `cohort` train in a round."""

    def states(self, name: str, *, needs: Reasons = NOTHING, removes: Reasons = NOTHING, instead: str = "") -> Stated:
        """What a setting states; `instead` is what else it may be, by default its default."""
        key, default = name.replace("_", "-"), type(self).model_fields[name].default
        plain = f"no {key}" if default == "" else f"{key} {str(default).lower()}"
        return Stated(key, getattr(self, name), needs, removes, f"{key} {instead}" if instead else plain)

    def is_given(self, name: str) -> bool:
        """Whether a setting is not its default."""
        return getattr(self, name) != type(self).model_fields[name].default


def number_or(word: str, kind: type[int | float] = float) -> Callable[[object], object]:
    """For a setting that is a number or one word; the command line passes both as text."""

    def number(value: object) -> object:
        try:
            return kind(value) if isinstance(value, str) and value != word else value
        except ValueError:
            raise ValueError(f"expected {word} or a number") from None

    return number


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a list in one text, with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


Scalar = bool | int | float | str
_MOST_BYTES = 16 << 20
# Keys whose value has options of its own: a TOML file may write them as a table of a name and these options.
_CHOICES = frozenset({
    "rule", "server-optimizer", "loss", "objective", "bits", "partition", "trainer", "data", "callbacks",
    "method", "correction",
})  # fmt: skip
# Keys that may name several: a TOML file may write them as a list of names and tables.
_SEVERAL = frozenset({"callbacks"})


def nested(table: Mapping[str, object]) -> dict[str, object]:
    """The table with what Flower flattened nested again: ``rule.share = 0.1`` becomes ``[rule] share = 0.1``."""
    nested: dict[str, object] = {}
    for given, value in table.items():
        key, dot, option = given.partition(".")
        spelled = key.replace("_", "-").lower()
        if not (dot and spelled in _CHOICES):
            nested[given] = value
        elif isinstance(options := nested.setdefault(key, {}), dict):
            options[option] = value
        else:
            raise ConfigError(escaped(f"'{key}' and '{given}' are both given; give one of them"))
    return nested


def choice_of(key: str, value: object, where: str) -> object:
    """A table of a name and options, or a list of such, as one text; any other value as it is."""
    if isinstance(value, list) and key in _SEVERAL:
        listed = [choice_of(key, each, where) for each in cast("list[object]", value)]
        return ",".join(cast("list[str]", listed)) if all(isinstance(each, str) for each in listed) else value
    if not isinstance(value, dict) or key not in _CHOICES:
        return value
    try:
        return choice_text(cast("dict[str, object]", value))
    except ConfigError as error:
        raise ConfigError(escaped(f"{where}: {key}: {error}")) from error


def read_config_table(path: Path) -> dict[str, object]:
    """Read a TOML file of settings."""
    try:
        with open_plain(path) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"'{path}' has more than {_MOST_BYTES >> 20} MiB, expected a TOML file of settings")
        table = read_toml(data)
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"'{path}' is not TOML: {error}") from error
    check_format(f"'{path}'", table.pop("format", 1), 1, error=ConfigError)
    return table


def toml_value(value: Scalar) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _toml_string(value) if isinstance(value, str) else repr(value)


def _toml_string(text: str) -> str:
    quoted = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(char) or (char if char.isprintable() else f"\\U{ord(char):08X}") for char in text
    )
    return f'"{quoted}"'
