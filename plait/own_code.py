"""A user's own part: made if it is a class, chosen with options if it is a function; what it raises becomes one line.

A contract check is a claim about a part, and how the claim fares. The checks of each kind stand beside it
(`plait.aggregation.contract` …). plait's own parts pass them in its tests, and a user's own in `plait check-plugin`.
"""

import inspect
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo

from plait.errors import ConfigError, PartError, PlaitError, machine_fault


def instance_of(part: object, *, what: str) -> object:
    """A part that is a class, made without arguments; any other part as it is."""
    if not inspect.isclass(part):
        return part
    try:
        return part()
    except TypeError as error:
        raise ConfigError(f"{what} has fields without a default: {error}") from error


def chosen_function(
    function: Callable[..., object],
    takes: tuple[str, ...],
    *,
    what: str,
    through: Callable[..., object] | None = None,
) -> Callable[..., object]:
    """A user's own function as a choice: a callable whose options are the function's parameters with defaults.

    Args:
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
            "with defaults"
        )
    options = [
        (each.name, _described(hints.get(each.name, type(each.default))), field(default=each.default))
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
        or (each.kind is each.POSITIONAL_OR_KEYWORD and isinstance(each.default, (bool, int, float, str)))
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


@contextmanager
def located_errors(what: str, *, quoting: bool = True) -> Generator[None]:
    """Turns what a user's own code raises into a PartError: `what`, the message if `quoting`, and the place."""
    try:
        yield
    except PlaitError:
        raise
    except Exception as error:
        if fault := machine_fault(error):
            raise fault from error
        kind, place = type(error).__name__, place_of(error)
        in_full = f"{what}: {kind}: {error}{place}"
        raise PartError(in_full if quoting else f"{what}: {kind}{place}", in_full) from error


def place_of(error: BaseException) -> str:
    """File and line in a user's own code where an error arose, as the end of a message; empty if unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", ours)) and Path(frame.filename).parent.name != "importlib"
    ]
    if not frames:
        return ""
    folder = str(Path(frames[0].filename).parent)
    last = next(frame for frame in reversed(frames) if frame.filename.startswith(folder))
    return f" ({last.filename}, line {last.lineno})"


Part = TypeVar("Part")


class BrokenError(PlaitError):
    """A claim does not hold; the message says what was found."""


class NotClaimedError(PlaitError):
    """The part does not claim this; the message says why."""


@dataclass(frozen=True)
class Check(Generic[Part]):
    """One claim."""

    claim: str
    run: Callable[[Part], str | None]
    """Raises `BrokenError` or `NotClaimedError`; may return a remark."""


@dataclass(frozen=True)
class ClaimVerdict:
    """How a claim fares; `detail` is what was found, or why nothing is claimed."""

    claim: str
    holds: bool | None  # None where the part does not claim it
    detail: str = ""


def checked(part: Part, checks: Sequence[Check[Part]]) -> Iterator[ClaimVerdict]:
    """Each claim about a part, and how it fares; an error of the part's own is a broken claim."""
    for check in checks:
        try:
            yield ClaimVerdict(check.claim, True, check.run(part) or "")
        except NotClaimedError as why:
            yield ClaimVerdict(check.claim, None, str(why))
        except Exception as error:
            failure = str(error) if isinstance(error, PlaitError) else f"{type(error).__name__}: {error}"
            yield ClaimVerdict(check.claim, False, failure)
