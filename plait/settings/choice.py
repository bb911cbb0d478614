"""A named choice with its own options, in one text: ``fedavg``, ``trimmed_mean:share=0.1``, ``my_rules:Mine:groups=3``.

The chosen thing is a frozen dataclass; its fields are the options, typed and bounded by their annotations.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from plait.errors import ConfigError, did_you_mean
from plait.own_code import chosen_function
from plait.plugins import Kind, find

T = TypeVar("T")


@dataclass(frozen=True)
class ChoiceOption:
    """One option of a choice."""

    name: str
    default: float | int | bool | str
    description: str


def parse_choice(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of ``NAME:OPTION=VALUE,OPTION=VALUE``, where a name may be ``MODULE:NAME``; else ConfigError."""
    name, _, rest = text.partition(":")
    second, _, others = rest.partition(":")
    if "=" not in second and second.strip():
        name, rest = f"{name.strip()}:{second.strip()}", others
    options: dict[str, str] = {}
    for part in filter(None, map(str.strip, rest.split(","))):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not (option and equals and value):
            raise ConfigError(f"option of '{name}' is '{part}', expected OPTION=VALUE")
        if option in options:
            raise ConfigError(f"option '{option}' of '{name}' is given twice, expected once")
        options[option] = value
    return name.strip(), options


def split_choices(text: str) -> tuple[str, ...]:
    """The choices in a text with commas between them, each with its options: ``wandb,my:Log:every=2,last=true``."""
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if found and re.match(r"[A-Za-z_][\w-]*\s*=", part):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return tuple(dict.fromkeys(found))


def choice_text(table: Mapping[str, object]) -> str:
    """A table with a ``name`` and options, as a TOML file has it, as one text; an option may be such a table, too."""
    table = {
        key: choice_text(cast("Mapping[str, object]", value)).replace(",", ";") if isinstance(value, Mapping) else value
        for key, value in table.items()
    }
    name = table.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"name is {name!r}, expected text in addition to the options {', '.join(table)}")
    for key, value in table.items():
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(f"{key} is {value!r}, expected a number, a text, true or false")
    options = ",".join(f"{key}={value}" for key, value in table.items() if key != "name")
    return f"{name}:{options}" if options else name


def options_of(chosen: object) -> tuple[ChoiceOption, ...]:
    """The options of a choice; none if it is not a dataclass, such as a class or function."""
    if not is_dataclass(chosen) or isinstance(chosen, type):
        return ()
    found: list[ChoiceOption] = []
    hints = get_type_hints(type(chosen), include_extras=True)
    for each in fields(chosen):
        infos = [info for info in getattr(hints[each.name], "__metadata__", ()) if isinstance(info, FieldInfo)]
        if infos and each.default is not MISSING:
            found.append(ChoiceOption(each.name, getattr(chosen, each.name), infos[0].description or ""))
    return tuple(found)


def with_options(chosen: T, given: Mapping[str, str], *, what: str) -> T:
    """A choice with some of its options set; ConfigError for an unknown option, or a wrong value of one."""
    known = [option.name for option in options_of(chosen)]
    values: dict[str, Any] = {}
    for name, text in given.items():
        key = name.replace("-", "_")
        if key not in known:
            expected = f"expected one of {', '.join(known)}{did_you_mean(key, known)}" if known else "it has no options"
            raise ConfigError(f"{what} is given the option '{name}', {expected}")
        annotation = get_type_hints(type(chosen), include_extras=True)[key]
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
        try:
            values[key] = adapter.validate_python(text)
        except ValidationError as error:
            message = error.errors()[0]["msg"].lower().replace("input should be", "expected")
            raise ConfigError(f"{name} of {what} is '{text}', {message}") from error
    return replace(chosen, **values) if values else chosen  # pyright: ignore[reportCallIssue, reportArgumentType]


def function_named(
    kind: Kind, text: str, takes: tuple[str, ...], *, known: Iterable[str] = ()
) -> Callable[..., object]:
    """A user's own function of these parameters, found by its name, with its options; else ConfigError."""
    name, options = parse_choice(text)
    what, found = f"{kind} '{name}'", find(kind, name, known=known)
    if not callable(found):
        raise ConfigError(f"{what} is a {type(found).__name__}, expected a function of ({', '.join(takes)})")
    return with_options(chosen_function(found, takes, what=what), options, what=what)


_DAY = range(24)


@lru_cache(maxsize=1024)
def hours_of(text: str) -> frozenset[int]:
    """The hours of the day in ``FROM-TO``, which may pass midnight, or ConfigError; all of them for an empty text."""
    if not text:
        return frozenset(_DAY)
    start, _, end = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) < 3 and int(part) <= 24 for part in (start, end)):
        raise ConfigError(f"hours are {text!r}, expected FROM-TO in hours of the day, such as 22-6")
    first, last = int(start), int(end)
    if first == last:
        raise ConfigError(f"hours are {text!r}, expected two different hours, or none for the whole day")
    return frozenset((first + hour) % 24 for hour in range((last - first) % 24 or 24))


class Choices(Mapping[str, T], Generic[T]):
    """What a setting can name, imported when it is first looked up: names, and what imports their parts."""

    def __init__(
        self, *families: tuple[Sequence[str], Callable[[], Mapping[str, T]]], alphabetical: bool = False
    ) -> None:
        loaders = {name: loader for names, loader in families for name in names}
        self.loaders = dict(sorted(loaders.items())) if alphabetical else loaders

    def __getitem__(self, name: str) -> T:
        return self.loaders[name]()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)

    def __contains__(self, name: object) -> bool:
        return name in self.loaders
