"""A user's own function with options, as a frozen dataclass like any other choice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import field, make_dataclass
from functools import partial
from typing import Annotated, cast, get_args, get_origin, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo

from plait.errors import ConfigError


def chosen_function(
    function: Callable[..., object],
    takes: tuple[str, ...],
    *,
    what: str,
    through: Callable[..., object] | None = None,
) -> Callable[..., object]:
    """A user's own function as a choice: a callable whose options are the function's keyword-only parameters.

    Args: function: takes values in the places of `takes`, and options after a star, each with a default.
        takes: names of what it is given, for the message.
        what: its name in error messages.
        through: what a call does instead of calling it, given the function with its options and what the call is given.

    Raises:
        ConfigError: it takes something else, or an option has no default.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"{what} cannot be read as a function of ({', '.join(takes)}): {error}") from error
    needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    if len(needed) != len(takes) or any(each.kind is each.KEYWORD_ONLY for each in needed):
        raise ConfigError(
            f"{what} takes ({', '.join(each.name for each in parameters)}), expected ({', '.join(takes)}) and options "
            "with defaults after a star"
        )
    options = [
        (each.name, _described(hints.get(each.name, type(each.default))), field(default=each.default))
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
    ]

    def call(self: object, *given: object) -> object:
        bound = partial(function, **{name: getattr(self, name) for name, *_ in options})
        return through(bound, *given) if through else bound(*given)

    made = make_dataclass(function.__name__.strip("<>"), options, frozen=True, namespace={"__call__": call})
    return cast("Callable[..., object]", made())


def _described(hint: object) -> object:
    if get_origin(hint) is Annotated and any(isinstance(each, FieldInfo) for each in get_args(hint)[1:]):
        return hint
    return Annotated[hint, Field(description="")]
